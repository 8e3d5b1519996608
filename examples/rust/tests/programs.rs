//! Each example as it is: a program that is given a relay, and users who go through that.

use std::process::Stdio;
use std::time::Duration;

use relay::testing::Relay;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// An example, which ends with the test.
struct Program {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    /// Where its users go.
    address: String,
}

impl Program {
    async fn start(program: &str, relay: &str) -> Self {
        let mut command = Command::new(program);
        let mut child = command.arg(relay).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut program = Self { child, says, address: String::new() };
        program.address = program.line().await.strip_prefix("reachable at ").unwrap().into();
        program
    }

    async fn line(&mut self) -> String {
        within("a line", self.says.next_line()).await.unwrap().expect("one more line")
    }

    async fn user(&self) -> TcpStream {
        within("a connection", TcpStream::connect(&self.address)).await.unwrap()
    }
}

/// The body of what a web server answers to this user's next request, after which it keeps the connection.
async fn get(user: &mut TcpStream) -> std::io::Result<String> {
    user.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(user.read_u8().await?.into());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    user.read_exact(&mut body).await?;
    Ok(String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn an_accept_loop_echoes_and_knows_its_users() {
    let relay = Relay::start().unwrap();
    for url in [relay.url(), relay.invite("tcp")] {
        let mut program = Program::start(env!("CARGO_BIN_EXE_tcp"), &url).await;
        let mut user = program.user().await;
        let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let (mut from, mut to) = user.split();
        let send = async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut echoed = Vec::new();
        let (_, read) = within("the echo", async { tokio::join!(send, from.read_to_end(&mut echoed)) }).await;
        read.unwrap();
        assert!(echoed == sent);
        assert_eq!(program.line().await, format!("user Some({})", user.local_addr().unwrap()));
    }
}

#[tokio::test]
async fn axum_serves() {
    let relay = Relay::start().unwrap();
    let program = Program::start(env!("CARGO_BIN_EXE_axum"), &relay.url()).await;
    let mut user = program.user().await;
    for _ in 0..3 {
        assert_eq!(within("an answer", get(&mut user)).await.unwrap(), "hello\n");
    }
}

#[tokio::test]
async fn axum_knows_its_users_and_ends_when_it_is_told_to() {
    let relay = Relay::start().unwrap();
    let mut program = Program::start(env!("CARGO_BIN_EXE_axum_users"), &relay.url()).await;
    let mut user = program.user().await;
    let hello = format!("hello, {}\n", user.local_addr().unwrap());
    assert_eq!(within("an answer", get(&mut user)).await.unwrap(), hello);
    let id = program.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    // The idle connection is ended cleanly, and the program with it.
    assert_eq!(within("the end", user.read(&mut [0])).await.unwrap(), 0);
    drop(user);
    assert!(within("an exit", program.child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn axum_ends_when_the_relay_is_of_no_use_any_more() {
    let mut relay = Relay::start().unwrap();
    let mut program = Program::start(env!("CARGO_BIN_EXE_axum_users"), &relay.invite("web")).await;
    relay.revoke("web");
    relay.restart().await.unwrap();
    assert_eq!(within("an exit", program.child.wait()).await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn tonic_serves_and_knows_its_users() {
    let relay = Relay::start().unwrap();
    let mut program = Program::start(env!("CARGO_BIN_EXE_tonic"), &relay.url()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", program.address)).unwrap();
    let mut client = HealthClient::new(within("a connection", endpoint.connect()).await.unwrap());
    let answer = within("an answer", client.check(HealthCheckRequest::default())).await.unwrap();
    assert_eq!(answer.into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let said = program.line().await;
    assert!(said.starts_with("user Some(127.0.0.1:") && !said.contains(&program.address), "{said}");
}

#[tokio::test]
async fn hyper_serves_and_knows_its_users() {
    let relay = Relay::start().unwrap();
    let program = Program::start(env!("CARGO_BIN_EXE_hyper"), &relay.url()).await;
    let mut user = program.user().await;
    let hello = format!("hello, Some({})\n", user.local_addr().unwrap());
    assert_eq!(within("an answer", get(&mut user)).await.unwrap(), hello);
}
