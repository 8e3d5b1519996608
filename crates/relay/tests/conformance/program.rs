//! The kit as a program, with its exit codes.

use std::process::{Command, Output};

use crate::support::{RELAY, relay};

/// How the kit ends, and what it prints.
fn kit(relay: &str) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(RELAY).args(["conformance", "relay", relay]).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn our_own_relay_holds_and_the_kit_ends_with_0() {
    let (_relay, port) = relay();
    let (code, table, said) = kit(&format!("127.0.0.1:{port}"));
    assert_eq!((code, &*said), (Some(0), ""), "{table}");
    assert!(table.starts_with("holds        multiplex, as written "), "{table}");
    assert!(table.trim_end().lines().last().unwrap().contains(" hold, 0 failed, "), "{table}");
}

#[test]
fn what_is_no_relay_fails_and_the_kit_ends_with_1() {
    let closes = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closes.local_addr().unwrap().to_string();
    std::thread::spawn(move || while closes.accept().is_ok() {});
    let (code, table, said) = kit(&address);
    assert_eq!(code, Some(1));
    assert!(
        table.starts_with("FAILS        multiplex, as written ") && table.contains("\n             seen: "),
        "{table}"
    );
    assert!(said.ends_with("checks failed\n"), "{said}");
}

#[test]
fn without_anybody_there_the_kit_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, table, said) = kit(&nobody.to_string());
    assert_eq!((code, &*table), (Some(1), ""));
    assert!(said.starts_with(&format!("relay: cannot connect to {nobody}: ")), "{said}");
}
