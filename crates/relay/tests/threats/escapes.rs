//! What peers put into each field that is theirs reaches no log and no terminal as it is.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use rcgen::{CertificateParams, DnType, KeyPair};

use crate::rig::{Relay, line};
use crate::support::{MODES, Program, RELAY};

/// Colours, the title of a window, a bell, C1's CSI, text from right to left; and lines of their own.
const NASTY: [&str; 4] =
    ["\x1b[31mred\x1b]0;title\x07", "\u{9b}31mred", "\u{202e}der", "x\r2026-01-01T00:00:00Z  INFO forged"];

/// Nothing that a terminal would obey, and nothing that begins a line but what the program began.
fn are_harmless(program: &Program) {
    for line in program.lines() {
        let obeyed = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!line.chars().any(obeyed) && !line.contains("\u{fffd}"), "{line:?}");
        assert!(line.starts_with("20") || line.starts_with("relay: ") || line.starts_with("established"), "{line:?}");
        assert!(!line.starts_with("2026-01-01"), "{line:?}");
    }
}

#[test]
fn nothing_that_clients_send_reaches_the_servers_log_as_it_is() {
    let mut relay = Relay::run("plain_text = true", std::process::Command::new(RELAY).env("RELAY_LOG", "trace"));
    let key = KeyPair::generate().unwrap();
    for nasty in NASTY {
        for fields in [
            "N\n",
            "N N\n",
            "multiplex N\n",
            "event\nN\n",
            "pool\nN 1 N\n",
            "pool\nABC N AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
            "relay/1\nN\n",
            "relay/1\nN=1\n",
            "relay/1\nauth N\n",
            "relay/1\nauth laptop\nN\n",
            "relay/1\nmultiplex N\n",
            "relay/1\nmultiplex N=1\n",
            "relay/1\nmultiplex port=N\n",
            "relay/1\nevent wish=N\n",
            "relay/1\npool allow=N\n",
            "relay/1\npool\nN\n",
        ] {
            let lines = fields.replace('N', nasty);
            drain(Some(relay.say(&lines)));
            drain(relay.say_securely(&relay.client, &lines));
        }
        // Fields of TLS: the protocol's name, and those of a certificate.
        let mut alpn = relay.client.clone();
        alpn.alpn_protocols = vec![nasty.into()];
        drain(relay.say_securely(&alpn, "x\n"));
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, nasty);
        let certificate = params.self_signed(&key).unwrap();
        let named = relay.client_with(certificate.der().clone(), &key);
        drain(relay.say_securely(&named, format!("relay/1\nevent\nnew\n{nasty}\n")));
        drain(Some(relay.say([b"\x16\x03\x01".as_slice(), nasty.as_bytes()].concat())));
    }
    relay.serves();
    relay.program.line_with("tunnel closed");
    assert!(relay.program.lines().iter().any(|line| line.contains("[31mred")), "nothing of it was logged at all");
    are_harmless(&relay.program);
    relay.program.assert_runs();
}

/// Reads what comes, to whatever end, if there is a connection at all.
fn drain(stream: impl IntoIterator<Item = impl Read>) {
    for mut stream in stream {
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// A relay that answers every connection alike.
fn relay_that_says(answer: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let answered = |mut client: TcpStream| {
            line(&mut client)?;
            client.write_all(answer.as_bytes())?;
            client.shutdown(std::net::Shutdown::Write)?;
            client.read_to_end(&mut Vec::new())
        };
        listener.incoming().map_while(Result::ok).for_each(|client| drop(answered(client)));
    });
    address
}

#[test]
fn nothing_that_a_relay_sends_reaches_the_forwarders_terminal_as_it_is() {
    let answers =
        ["N\n", "7001\nN\n", "N=1", "relay/1 N\n", "relay/1 port\nerror denied N\n", "relay/1 port\nerror N N\n"];
    for (at, answer) in answers.into_iter().enumerate() {
        // Each mode and each text, though not each of one with each of the other.
        for (mode, nasty) in MODES.into_iter().cycle().skip(at).zip(NASTY) {
            let relay = relay_that_says(answer.replace('N', nasty)).to_string();
            let mut arguments = vec!["forward", "9", &relay, "--mode", mode, "-v"];
            if answer.starts_with("relay/1") {
                arguments.extend(["--port", "7009"]);
            }
            let forwarder = Program::start(RELAY, arguments);
            // What it has to say of that relay.
            forwarder.line_with(&relay);
            are_harmless(&forwarder);
        }
    }
}
