//! The user's address, in one line ahead of its first byte (PROXY protocol, version 1).

use std::net::{IpAddr, SocketAddr};

use relay_proto::yamux::Kind;
use tokio::net::TcpStream;

use super::Relay;
use super::tunnel::accept;
use crate::conformance::Verdict;
use crate::conformance::peer::Peer;

/// The longest line, in bytes, its end included: as haproxy's proxy-protocol.txt has it.
const LONGEST: usize = 107;

pub(super) async fn multiplex(relay: &Relay) -> Verdict {
    let (mut session, port) = relay.multiplex(" proxy=v1").await?;
    let mut user = relay.user(port).await?;
    let stream = accept(&mut session).await?;
    let mut heard = Vec::new();
    // It does not wait for the user.
    while !heard.ends_with(b"\n") {
        let frame = session.next().await?;
        if frame.header.kind != Kind::Data || frame.header.stream != stream || heard.len() > LONGEST {
            return Err(session.peer.seen(format_args!("{:?} instead of a line", frame.header)));
        }
        heard.extend_from_slice(&frame.body);
    }
    is_line_of(relay, &String::from_utf8_lossy(&heard), &user)?;
    user.send("question").await?;
    session.expect(stream, "question").await?;
    session.data(stream, "answer").await?;
    user.expect("answer").await
}

pub(super) async fn pool(relay: &Relay) -> Verdict {
    let (member, port, _) = relay.pool(" proxy=v1").await?;
    let user = relay.user(port).await?;
    serves(relay, member, user).await
}

pub(super) async fn event(relay: &Relay) -> Verdict {
    let (mut control, port) = relay.event(" proxy=v1").await?;
    let user = relay.user(port).await?;
    let claim = relay.claim(&control.line().await?).await?;
    serves(relay, claim, user).await
}

/// The line comes to a connection whose user has said nothing, and then what the user says.
async fn serves(relay: &Relay, mut service: Peer, mut user: Peer) -> Verdict {
    let line = service.line().await?;
    is_line_of(relay, &format!("{line}\n"), &user)?;
    service.send("welcome").await?;
    user.expect("welcome").await?;
    user.send("question").await?;
    service.expect("question").await
}

/// Whether a line, with its end, is that of the user.
fn is_line_of(relay: &Relay, line: &str, user: &Peer) -> Verdict {
    let other = |wanted: &str| Err(format!("{line:?} instead of {wanted}").into());
    let Some(words) = line.strip_suffix("\r\n").filter(|_| line.len() <= LONGEST) else {
        return other("a line of at most 107 bytes with \\r\\n");
    };
    let words: Vec<&str> = words.split(' ').collect();
    let address = |at: usize| words.get(at).and_then(|word| word.parse::<IpAddr>().ok());
    let port = |at: usize| words.get(at).and_then(|word| word.parse::<u16>().ok());
    let (Some(source), Some(to), Some(from_port), Some(to_port)) = (address(2), address(3), port(4), port(5)) else {
        return other("PROXY, a family, two addresses and two ports");
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let right = words.len() == 6 && words[..2] == ["PROXY", family] && source.is_ipv4() == to.is_ipv4();
    let tcp = user.socket().tcp();
    let (Some(Ok(near)), Some(Ok(far))) = (tcp.map(TcpStream::local_addr), tcp.map(TcpStream::peer_addr)) else {
        return Err("the user is gone".into());
    };
    // On the way to another machine addresses may be translated.
    let on_this_machine = relay.at.ip().is_loopback();
    let came = SocketAddr::new(source, from_port);
    if right && to_port == far.port() && (came == near || !on_this_machine) {
        return Ok(());
    }
    other(&format!("PROXY {family} with {near} and port {}", far.port()))
}
