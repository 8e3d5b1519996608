//! The server's file.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use relay_proto::identity::{IdentityError, Name, Token, Verifier};
use relay_proto::network;

use super::reader::{At, Source, Table};
use super::values;
use crate::identity::{Identity, Rights};
use crate::state::Host;

/// What a count may be at most: more than any machine serves, few enough to be added up.
const MAX_COUNT: usize = 100_000_000;

/// The keys of a server's file, outermost table.
pub(super) const KEYS: &[&str] = &[
    "listen",
    "ports",
    "bind",
    "state",
    "open",
    "host",
    "plain_text",
    "proxy_protocol",
    "identities_file",
    "tls",
    "anonymous",
    "limits",
    "identity",
];

/// What the server's file says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// The control port.
    pub listen: Option<SocketAddr>,
    /// The public ports to give away, first and last.
    pub ports: Option<(u16, u16)>,
    /// The address that public ports are bound to.
    pub bind: Option<IpAddr>,
    /// The folder of the state.
    pub state: Option<PathBuf>,
    /// Serve clients without an identity, from anywhere.
    pub open: Option<bool>,
    /// How clients reach the relay: what invites name.
    pub host: Option<Host>,
    /// Serve identities and listed networks in plain text, too.
    pub plain_text: Option<bool>,
    /// The networks of load balancers, which begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    /// Leave congestion control to the system.
    pub no_bbr: Option<bool>,
    /// How it speaks TLS.
    pub tls: Tls,
    /// Clients without an identity.
    pub anonymous: Anonymous,
    /// Bounds on what clients and users may do.
    pub limits: Limits,
    /// Who may use it, besides those who were invited.
    pub identities: Vec<Identity>,
}

/// `[tls]`: how the server speaks TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The files of a certificate chain and its key, PEM; `None` for the self-signed one of the state.
    pub files: Option<(PathBuf, PathBuf)>,
    /// Serve TLS 1.2, too.
    pub tls12: Option<bool>,
}

/// `[anonymous]`: clients without an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    /// The networks from which they are served although the server is not open.
    pub networks: Vec<IpNet>,
    /// The public ports that they may have, first and last.
    pub ports: Option<(u16, u16)>,
}

/// `[limits]`: bounds on what clients and users may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections whose handshake is not done.
    pub handshakes: Option<usize>,
    /// The same from one source network (/32 or /64).
    pub handshakes_per_source: Option<usize>,
    /// Failed proofs of one source before it has to wait.
    pub failures_per_source: Option<usize>,
    /// Tunnels at once of an identity that has no bound of its own, reserved ports included.
    pub tunnels_per_identity: Option<usize>,
    /// Users at once of one tunnel.
    pub users_per_tunnel: Option<usize>,
    /// Users at once from one source network, of all tunnels.
    pub users_per_source: Option<usize>,
    /// New users a second from one source network.
    pub new_users_per_source: Option<usize>,
    /// The networks that the two above do not concern.
    pub exempt: Option<Vec<IpNet>>,
    /// Users of one tunnel who wait for a connection of its client.
    pub waiting_users: Option<usize>,
    /// Bytes a second of one tunnel whose identity has no bound of its own, both ways together.
    pub bandwidth: Option<u64>,
    /// Bytes that one multiplexed link may hold for users who do not take them.
    pub memory_per_session: Option<u64>,
    /// The same of all links together.
    pub memory: Option<u64>,
    /// File descriptors in use at which no more connections are accepted.
    pub descriptors: Option<usize>,
}

impl Server {
    pub(super) fn read(root: &mut Table<'_, '_>, source: &Source<'_>) -> Self {
        let mut server = Self {
            listen: root.text("listen", values::listen_address),
            ports: root.text("ports", values::port_range),
            bind: root.text("bind", values::address),
            state: root.path("state").map(|path| path.value),
            open: root.flag("open"),
            host: root
                .text("host", |text| text.parse().map_err(|_| "give HOST or HOST:PORT, an IPv6 address in brackets")),
            plain_text: root.flag("plain_text"),
            proxy_protocol: root.list("proxy_protocol", network::parse),
            no_bbr: root.flag("no_bbr"),
            tls: Tls::read(&mut root.table("tls"), source),
            anonymous: Anonymous::read(&mut root.table("anonymous")),
            limits: Limits::read(&mut root.table("limits")),
            identities: Vec::new(),
        };
        let default = Rights::default();
        let max_tunnels = server.limits.tunnels_per_identity.unwrap_or(default.max_tunnels);
        let default = Rights { max_tunnels, ..default };
        let mut names = BTreeSet::new();
        identities_file(root, &default, |identity| {
            let is_new = names.insert(identity.name.clone());
            server.identities.push(identity);
            is_new
        });
        for mut table in root.tables("identity") {
            let Some(identity) = identity(&mut table, &default) else { continue };
            if !names.insert(identity.name.clone()) {
                table.problem(format!("the identity `{}` is there twice: {ONCE}", identity.name));
            }
            server.identities.push(identity);
        }
        server
    }
}

const ONCE: &str = "give each a name of its own";

impl Tls {
    fn read(table: &mut Table<'_, '_>, source: &Source<'_>) -> Self {
        Self { files: certificate(table, "certificate", "key", source), tls12: table.flag("tls12") }
    }
}

/// Two keys that name a certificate chain and its key: both or none.
pub(super) fn certificate(
    table: &mut Table<'_, '_>,
    chain: &'static str,
    key: &'static str,
    source: &Source<'_>,
) -> Option<(PathBuf, PathBuf)> {
    match (table.path(chain), table.path(key)) {
        (Some(certificate), Some(private)) => {
            if let Err(error) = source.references().certificate(&certificate.value, &private.value) {
                table.problem_at(certificate.line, format!("`{chain}`: {error}"));
            }
            Some((certificate.value, private.value))
        }
        (Some(At { line, .. }), None) => {
            table.problem_at(line, format!("`{chain}` needs `{key}`, the file of its key"));
            None
        }
        (None, Some(At { line, .. })) => {
            table.problem_at(line, format!("`{key}` needs `{chain}`, the file of its certificate"));
            None
        }
        (None, None) => None,
    }
}

impl Anonymous {
    fn read(table: &mut Table<'_, '_>) -> Self {
        Self { networks: table.list("networks", network::parse), ports: table.text("ports", values::port_range) }
    }
}

impl Limits {
    fn read(table: &mut Table<'_, '_>) -> Self {
        let mut count = |key| table.number(key, 1..=MAX_COUNT);
        Self {
            handshakes: count("handshakes"),
            handshakes_per_source: count("handshakes_per_source"),
            failures_per_source: count("failures_per_source"),
            tunnels_per_identity: count("tunnels_per_identity"),
            users_per_tunnel: count("users_per_tunnel"),
            users_per_source: count("users_per_source"),
            new_users_per_source: count("new_users_per_source"),
            waiting_users: count("waiting_users"),
            descriptors: count("descriptors"),
            bandwidth: table.bytes("bandwidth"),
            memory_per_session: table.bytes("memory_per_session"),
            memory: table.bytes("memory"),
            exempt: table.list_or_none("exempt", network::parse),
        }
    }
}

/// `[[identity]]`. `None` if it has no name: nothing else can be said of it then.
fn identity(table: &mut Table<'_, '_>, default: &Rights) -> Option<Identity> {
    let name = table.text("name", str::parse::<Name>);
    let certificate = table.text("certificate_sha256", values::sha256);
    let verifier = verifier(table, certificate.is_some());
    let rights = Rights {
        ports: table.text("ports", values::port_range),
        max_tunnels: table.number("max_tunnels", 1..=MAX_COUNT).unwrap_or(default.max_tunnels),
        max_users: table.number("max_users", 1..=MAX_COUNT).unwrap_or(default.max_users),
        bandwidth: table.bytes("bandwidth"),
        expires: table.moment("expires"),
        allow: table.list("allow", network::parse),
        refuse: table.list("refuse", network::parse),
    };
    if name.is_none() && !table.had("name") {
        table.problem("an identity needs a `name`");
    }
    Some(Identity { name: name?, verifier, certificate, rights, revoked: false })
}

/// How an identity proves itself: by one of three keys, or by a certificate alone.
fn verifier(table: &mut Table<'_, '_>, has_certificate: bool) -> Option<Verifier> {
    let keys = ["token_file", "token_env", "verifier"];
    let file = table.secret_file("token_file").and_then(|secret| token(table, "token_file", &secret));
    let variable = table.secret_variable("token_env").and_then(|secret| token(table, "token_env", &secret));
    let verifier = table.text("verifier", str::parse::<Verifier>);
    match keys.iter().filter(|key| table.had(key)).count() {
        0 if !has_certificate && !table.had("certificate_sha256") => table.problem(
            "an identity needs something to prove itself: `token_file`, `token_env`, `verifier` or `certificate_sha256`",
        ),
        0 | 1 => {}
        _ => table.problem("an identity has one token: give only one of `token_file`, `token_env` and `verifier`"),
    }
    file.or(variable).or(verifier)
}

fn token(table: &Table<'_, '_>, key: &str, secret: &At<String>) -> Option<Verifier> {
    let token: Result<Token, IdentityError> = secret.value.trim().parse();
    token.map(|token| token.verifier()).map_err(|error| table.problem_at(secret.line, format!("`{key}`: {error}"))).ok()
}

/// A token file: lines `NAME TOKEN`; empty ones and those that begin with `#` are skipped. `add` tells whether the
/// name is new.
fn identities_file(root: &mut Table<'_, '_>, rights: &Rights, mut add: impl FnMut(Identity) -> bool) {
    const KEY: &str = "identities_file";
    let Some(At { line: at, value: text }) = root.secret_file(KEY) else { return };
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let problem = |what: &str| root.problem_at(at, format!("`{KEY}`: its line {number}: {what}"));
        let mut words = line.split_whitespace();
        let (Some(name), Some(token), None) = (words.next(), words.next(), words.next()) else {
            problem("it takes two words: NAME TOKEN");
            continue;
        };
        match (name.parse::<Name>(), token.parse::<Token>()) {
            (Ok(name), Ok(token)) => {
                let verifier = Some(token.verifier());
                let identity = Identity { name, verifier, certificate: None, rights: rights.clone(), revoked: false };
                if !add(identity) {
                    problem(&format!("its name is there twice: {ONCE}"));
                }
            }
            (Err(error), _) | (_, Err(error)) => problem(&error.to_string()),
        }
    }
}
