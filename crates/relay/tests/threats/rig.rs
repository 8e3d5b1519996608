//! The program as a server with one identity, and clients of it that speak raw lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use relay_proto::auth::{Binding, Nonce};
use relay_proto::identity::{Name, Token};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, StreamOwned};

use crate::support::{PATIENCE, Program, RELAY, TempDir, free_port};

/// The identity that the server knows.
const NAME: &str = "laptop";

/// A connection under TLS.
pub(crate) type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A running server.
pub(crate) struct Relay {
    pub(crate) program: Program,
    pub(crate) control: SocketAddr,
    /// Every handshake with it is a whole one.
    pub(crate) client: ClientConfig,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

impl Relay {
    /// With these lines in its configuration: keys, then tables.
    pub(crate) fn start(settings: &str) -> Self {
        Self::run(settings, &mut Command::new(RELAY))
    }

    /// With its state there.
    pub(crate) fn start_in(state: &Path, settings: &str) -> Self {
        Self::run(settings, Command::new(RELAY).env("RELAY_STATE", state))
    }

    /// The same, run by `command`, to which the arguments are added.
    pub(crate) fn run(settings: &str, command: &mut Command) -> Self {
        let folder = TempDir::new();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["relay.test".into()]).unwrap().self_signed(&key).unwrap();
        for (name, text) in [
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
            ("tokens", format!("{NAME} {}\n", token().expose())),
        ] {
            secret(&folder.path().join(name)).write_all(text.as_bytes()).unwrap();
        }
        let control = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = folder.path().join("relay.toml");
        let before = format!("listen = \"{control}\"\nstate = \"state\"\nidentities_file = \"tokens\"\n");
        let tls = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
        fs::write(&file, format!("{before}{settings}\n{tls}")).unwrap();
        let program = Program::spawn(command.arg("server").arg("--config").arg(&file));
        program.line_with("relay listens");
        let certificate = certificate.der().clone();
        let mut client = trusting(&certificate).with_no_client_auth();
        client.resumption = Resumption::disabled();
        Self { program, control, client, certificate, folder }
    }

    /// The folder of its state.
    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    /// How a client with that certificate speaks TLS.
    pub(crate) fn client_with(&self, certificate: CertificateDer<'static>, key: &KeyPair) -> ClientConfig {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        trusting(&self.certificate).with_client_auth_cert(vec![certificate], key).unwrap()
    }

    /// A connection in plain text that has sent `bytes`.
    pub(crate) fn say(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = from("127.0.0.1", self.control).unwrap();
        stream.write_all(bytes.as_ref()).unwrap();
        stream
    }

    /// A connection under TLS that has sent `bytes`.
    pub(crate) fn say_securely(&self, client: &ClientConfig, bytes: impl AsRef<[u8]>) -> io::Result<Secure> {
        let name = ServerName::try_from("relay.test").unwrap();
        let client = ClientConnection::new(Arc::new(client.clone()), name).unwrap();
        let mut stream = StreamOwned::new(client, from("127.0.0.1", self.control)?);
        stream.write_all(bytes.as_ref())?;
        Ok(stream)
    }

    /// One that has proved to be the identity: the whole of a handshake.
    pub(crate) fn prove(&self) -> io::Result<Secure> {
        let mut stream = self.say_securely(&self.client, format!("relay/1\nauth {NAME}\n"))?;
        line(&mut stream)?;
        let nonce: Nonce = line(&mut stream)?.parse().unwrap();
        let name: Name = NAME.parse().unwrap();
        writeln!(stream, "{}", token().prove(&name, &nonce, &Binding::to_certificate(&self.certificate)))?;
        assert_eq!(line(&mut stream)?, "ok");
        Ok(stream)
    }

    /// The identity's control connection of event, and its public port.
    pub(crate) fn event(&self) -> (Secure, SocketAddr) {
        let mut control = self.prove().unwrap();
        control.write_all(b"event\nnew\n").unwrap();
        let port = line(&mut control).unwrap().parse().unwrap();
        (control, SocketAddr::new(self.control.ip(), port))
    }

    /// The connection that claims the next user announced there.
    pub(crate) fn claim(&self, control: &mut Secure) -> Secure {
        let ticket = line(control).unwrap();
        self.say_securely(&self.client, format!("event\n{ticket}\n")).unwrap()
    }

    /// It does its work: a tunnel, from the handshake to the user's last byte.
    pub(crate) fn serves(&self) {
        let (mut control, public) = self.event();
        let mut user = from("127.0.0.1", public).unwrap();
        chat(&mut user, &mut self.claim(&mut control));
    }

    /// What of memory it has taken at most, in bytes, beyond what it had taken `before`.
    pub(crate) fn cost(&self, before: usize) -> usize {
        self.program.peak_memory() - before
    }
}

fn token() -> Token {
    Token::from_random([7; 32])
}

/// A file for its owner alone.
fn secret(path: &Path) -> File {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap()
}

/// How a client speaks TLS to the server that has this certificate.
fn trusting(certificate: &CertificateDer<'static>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
}

/// A connection from one address of this machine to another.
pub(crate) fn from(source: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let source: IpAddr = source.parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The next line; nothing behind it is lost.
pub(crate) fn line(from: &mut impl Read) -> io::Result<String> {
    let mut line = String::new();
    loop {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(line),
            [byte] => line.push(byte.into()),
        }
    }
}

/// It ends, cleanly or not, without another byte.
pub(crate) fn is_gone(stream: &mut impl Read) {
    let end = stream.read(&mut [0]);
    assert!(!matches!(end, Ok(1)) && !end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "goes on");
}

/// Both say something that the other one hears.
pub(crate) fn chat(user: &mut (impl Read + Write), service: &mut (impl Read + Write)) {
    let mut heard = [0; 8];
    user.write_all(b"question").unwrap();
    service.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"question");
    service.write_all(b"answered").unwrap();
    user.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"answered");
}
