//! The forwarder's file.

use std::path::PathBuf;

use ipnet::IpNet;
use relay_client::Protocol;
use relay_proto::network;
use relay_proto::proxy::Version;

use super::reader::{At, Source, Table};
use super::{server, values};
use crate::service;
use crate::target::Relay;

/// The keys of a forwarder's file, outermost table.
pub(super) const KEYS: &[&str] = &["relay", "invite_file", "invite_env", "ca", "cert", "key", "service"];

/// What the forwarder's file says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarder {
    /// The relay.
    pub relay: Option<Relay>,
    /// Verify the relay by these authorities instead of the system's: a PEM file.
    pub ca: Option<PathBuf>,
    /// The files of a client certificate's chain and its key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Leave congestion control to the system.
    pub no_bbr: Option<bool>,
    /// What is forwarded.
    pub service: Option<Service>,
}

/// `[[service]]`: one service, and how users come to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it listens.
    pub service: service::Service,
    /// How users come.
    pub mode: Option<Protocol>,
    /// The public port that it must have.
    pub port: Option<u16>,
    /// The networks whose users may come; empty for all.
    pub allow: Vec<IpNet>,
    /// In which version of the PROXY protocol it is told where users are.
    pub proxy_protocol: Option<Version>,
}

impl Forwarder {
    pub(super) fn read(root: &mut Table<'_, '_>, source: &Source<'_>) -> Self {
        let relay = relay(root);
        let ca = root.path("ca");
        if let Some(At { line, value }) = &ca
            && let Err(error) = source.references().authorities(value)
        {
            root.problem_at(*line, format!("`ca`: {error}"));
        }
        let forwarder = Self {
            relay,
            ca: ca.map(|path| path.value),
            certificate: server::certificate(root, "cert", "key", source),
            no_bbr: root.flag("no_bbr"),
            service: service(root),
        };
        if let Some(relay) = &forwarder.relay
            && let Err(error) = relay.takes(forwarder.ca.is_some(), forwarder.certificate.is_some())
        {
            root.problem(error);
        }
        forwarder
    }
}

/// The relay, by one of three keys.
fn relay(root: &mut Table<'_, '_>) -> Option<Relay> {
    let plain = root.text("relay", |text| match text.parse::<Relay>() {
        Ok(Relay::Invite(_)) => Err("an invite is a secret: put it into a file, and name that by `invite_file`".into()),
        parsed => parsed.map_err(|error| error.to_string()),
    });
    let file = root.secret_file("invite_file").and_then(|secret| invite(root, "invite_file", &secret));
    let variable = root.secret_variable("invite_env").and_then(|secret| invite(root, "invite_env", &secret));
    if ["relay", "invite_file", "invite_env"].iter().filter(|key| root.had(key)).count() > 1 {
        root.problem("there is one relay: give only one of `relay`, `invite_file` and `invite_env`");
    }
    plain.or(file).or(variable)
}

fn invite(root: &Table<'_, '_>, key: &str, secret: &At<String>) -> Option<Relay> {
    let invite = secret.value.parse().map(Relay::Invite);
    invite.map_err(|error| root.problem_at(secret.line, format!("`{key}`: {error}"))).ok()
}

/// `[[service]]`, of which there is one at most.
fn service(root: &mut Table<'_, '_>) -> Option<Service> {
    let mut first = None;
    for (at, mut table) in root.tables("service").into_iter().enumerate() {
        let service = table.text("service", |text| text.parse::<service::Service>().map_err(|_| service::FORMS));
        if service.is_none() && !table.had("service") {
            table.problem("a `[[service]]` needs `service`, where it listens");
        }
        if at == 1 {
            table.problem("a forwarder has one service: run another `relay forward` for each further one");
        }
        let mode = table.text("mode", values::mode);
        let port = table.number("port", 1..=u16::MAX);
        let allow = table.list("allow", network::parse);
        let proxy_protocol = table.text("proxy_protocol", str::parse::<Version>);
        first = first.or(service.map(|service| Service { service, mode, port, allow, proxy_protocol }));
    }
    first
}
