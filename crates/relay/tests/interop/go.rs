//! The peers in `peers/go`, built on the yamux of the original's time and on the newest one.

use std::net::SocketAddr;

use crate::support::go;
pub(crate) use crate::support::go::{NEW, OLD};
use crate::support::{self, MIB, MODES, Program, User};

/// The original's client as the service behind our relay.
pub(crate) fn service(version: &str, port: u16, args: &[&str]) -> Option<(Program, SocketAddr)> {
    // The original's forwarder was a yamux client. Who embeds a newer yamux is its server, as it should be.
    let role = if version == OLD { "-role=client" } else { "-role=server" };
    let service = go::built("peers/go", version)?.join("service");
    let service = Program::start(service, [&[role], args, &["127.0.0.1", &port.to_string()]].concat());
    let address = support::established(&service);
    Some((service, address))
}

/// The original's relay, with its control port.
pub(crate) fn relay(version: &str, args: &[&str]) -> Option<(Program, u16)> {
    let relay = Program::start(go::built("peers/go", version)?.join("relay"), args);
    let port = relay.line_with("listening on ").rsplit(' ').next()?.parse().unwrap();
    Some((relay, port))
}

fn behind_our_relay(version: &str) {
    let (_relay, port) = support::relay();
    let Some((_service, at)) = service(version, port, &[]) else { return };
    let user = User::of(at);
    user.echo(100 * MIB);
    user.many(300);
    user.half_close();
    user.half_close_echo();
    user.service_ends_first();
}

#[test]
fn old_service_behind_our_relay() {
    behind_our_relay(OLD);
}

#[test]
fn new_service_behind_our_relay() {
    behind_our_relay(NEW);
}

#[test]
fn service_that_speaks_first() {
    for version in [OLD, NEW] {
        let (_relay, port) = support::relay();
        let Some((_service, at)) = service(version, port, &["-greet=hello"]) else { return };
        User::of(at).is_greeted("hello");
    }
}

#[test]
fn old_forwarder_with_our_relay() {
    let (_relay, port) = support::relay();
    let local = support::serve();
    let Some((_forwarder, at)) = service(OLD, port, &["-forward", &local.to_string()]) else { return };
    let user = User::of(at);
    user.echo(10 * MIB);
    user.half_close();
    user.many(50);
}

/// The old relay ends with whatever it cannot bear: that it still runs is half of the test.
fn before_our_forwarder(version: &str) {
    let Some((mut relay, port)) = relay(version, &["-pool-check=1h"]) else { return };
    let service = support::serve();
    for mode in MODES {
        let (_forwarder, at) = support::forwarder(service, port, mode);
        let user = User::of(at);
        user.echo(100 * MIB);
        user.many(300);
        user.service_ends_first();
        relay.assert_runs();
    }
}

#[test]
fn our_forwarder_with_the_old_relay() {
    before_our_forwarder(OLD);
}

#[test]
fn our_forwarder_with_the_new_yamux_relay() {
    before_our_forwarder(NEW);
}

#[test]
fn our_forwarder_carries_half_close_where_the_relay_does() {
    let Some((mut relay, port)) = relay(NEW, &["-half-close"]) else { return };
    let service = support::serve();
    for mode in MODES {
        let (_forwarder, at) = support::forwarder(service, port, mode);
        User::of(at).half_close();
        User::of(at).half_close_echo();
        relay.assert_runs();
    }
}
