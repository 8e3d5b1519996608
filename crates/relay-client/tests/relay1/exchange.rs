//! The exchange that opens a tunnel, and what comes of a relay's no.

use std::time::Duration;

use relay_client::{Builder, Code, Demand, Error, Event, Invite, Listener, Protocol, RELAY_1_WAIT, RelayAddr, Token};
use relay_proto::auth::{Binding, Nonce, Proof};

use crate::stage::{Peer, Shown, Stage, any, event_of, within};

const FEATURES: &str = "relay/1 auth port wish allow\n";

fn token() -> Token {
    Token::from_random([7; 32])
}

/// What a relay says to a proof of `laptop`'s that it has just heard: nothing, or the test fails.
fn checks(line: &str, nonce: &Nonce, shown: &Shown) {
    let proof: Proof = line.trim_end().parse().unwrap();
    let binding = Binding::to_certificate(&shown.certificate);
    assert!(token().verifier().check(&"laptop".parse().unwrap(), nonce, &binding, &proof).is_some());
    assert!(token().verifier().check(&"laptop".parse().unwrap(), nonce, &Binding::None, &proof).is_none());
}

/// A tunnel at a relay that was asked in that way over TLS and answers that.
async fn opened(stage: &Stage, builder: Builder, request: &str, answer: &str) -> (Listener, Peer) {
    let play = async {
        let client = stage.secure().await;
        client.hears("relay/1\n").await;
        client.says(FEATURES).await;
        client.hears(request).await;
        client.says(answer).await;
        client
    };
    let (bound, client) = stage.tried(builder, play).await;
    (bound.unwrap(), client)
}

/// The error of a relay that answers `relay/1` with that.
async fn answered(stage: &Stage, builder: Builder, answer: &str) -> Error {
    let play = async {
        let client = stage.secure().await;
        client.hears("relay/1\n").await;
        client.says(answer).await;
        client
    };
    let (bound, _client) = stage.tried(builder, play).await;
    bound.unwrap_err()
}

#[tokio::test]
async fn an_invited_client_proves_its_token_for_each_protocol() {
    for (protocol, request, answer) in [
        (Protocol::Multiplex, "multiplex\n", "ok\n7001\n"),
        (Protocol::Event, "event\nnew\n", "ok\n7001\n"),
        (Protocol::Pool, "pool\nnew\n", "ok\n7001\nNAME\n"),
    ] {
        // The relay may answer in one segment or in many.
        for split in [false, true] {
            let shown = any();
            let stage = Stage::showing(&shown).await;
            let relay = stage.address();
            let invite = Invite { name: "laptop".parse().unwrap(), token: token(), relay, pin: Some(shown.pin()) };
            let builder = Listener::invited(&invite).unwrap().protocol(protocol);
            let nonce = Nonce::from_random([9; 32]);
            let play = async {
                let client = stage.secure().await;
                client.hears("relay/1\nauth laptop\n").await;
                let greeting = format!("{FEATURES}{nonce}\n");
                let pieces = if split { greeting.split_inclusive(|_| true).collect() } else { vec![&greeting[..]] };
                for piece in pieces {
                    client.says(piece).await;
                }
                checks(&client.line().await, &nonce, &shown);
                // It does not wait for the ok.
                client.hears(request).await;
                client.says(answer).await;
                client
            };
            let (bound, _client) = stage.tried(builder, play).await;
            assert_eq!(bound.unwrap().public_address().port(), 7001);
        }
    }
}

#[tokio::test]
async fn ports_and_networks_are_asked_for() {
    let stage = Stage::new().await;
    let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
    for (protocol, request, answer) in [
        (Protocol::Multiplex, "multiplex port=7009 allow=10.0.0.0/8 allow=2001:db8::/32\n", "7009\n"),
        (Protocol::Event, "event port=7009 allow=10.0.0.0/8 allow=2001:db8::/32\nnew\n", "7009\n"),
        (Protocol::Pool, "pool port=7009 allow=10.0.0.0/8 allow=2001:db8::/32\nnew\n", "7009\nNAME\n"),
    ] {
        let builder = stage.builder().protocol(protocol).port(7009).allow(networks.to_vec());
        opened(&stage, builder, request, answer).await;
        // As well in plain text, from a relay that understands it.
        let builder = Listener::builder(stage.address()).protocol(protocol).port(7009).allow(networks.to_vec());
        let play = async {
            let client = stage.plain().await;
            client.hears("relay/1\n").await;
            client.says(FEATURES).await;
            client.hears(request).await;
            client.says(answer).await;
            client
        };
        let (bound, _client) = stage.tried(builder, play).await;
        bound.unwrap();
    }
}

#[tokio::test]
async fn each_refusal_is_final_or_temporary_by_its_code() {
    let stage = Stage::new().await;
    let codes = Code::KNOWN.into_iter().chain([Code::Other("quota".into())]);
    for code in codes {
        let error = answered(&stage, stage.builder(), &format!("error {code} some words\n")).await;
        assert_eq!(error.is_temporary(), code.is_temporary(), "{error}");
        let said = format!("{} refuses: {code}, some words", stage.address());
        assert!(error.to_string().starts_with(&said), "{error}");
        assert!(matches!(error, Error::Refused { code: got, words, .. } if got == code && &*words == "some words"));
    }
    let error = answered(&stage, stage.builder(), "error denied\n").await.to_string();
    assert_eq!(error, format!("{} refuses: denied; ask its operator for a new invite", stage.address()));
}

#[tokio::test]
async fn words_of_a_refusal_cannot_harm_a_terminal() {
    let stage = Stage::new().await;
    for nasty in ["error denied \x1b[31mred\x07\u{202e}\r\x00\n", "error \x1b[2J x\n", "\x1b[31m\u{202e}\n"] {
        let error = answered(&stage, stage.builder(), nasty).await.to_string();
        assert!(error.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{error:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_heard_at_each_step_and_before_a_close() {
    let builder = |stage: &Stage| {
        let tls = stage.tls().identity("laptop".parse().unwrap(), token());
        Listener::builder(stage.address()).tls(tls)
    };
    let nonce = Nonce::from_random([9; 32]);
    for before in [String::new(), FEATURES.into(), format!("{FEATURES}{nonce}\n"), format!("{FEATURES}{nonce}\nok\n")] {
        let stage = Stage::new().await;
        let play = async {
            let client = stage.secure().await;
            client.hears("relay/1\nauth laptop\n").await;
            client.says(&format!("{before}error denied no\n")).await;
            client.0.shutdown_write().unwrap();
            client
        };
        let (bound, _client) = stage.tried(builder(&stage), play).await;
        assert!(matches!(bound.unwrap_err(), Error::Refused { code: Code::Denied, .. }), "{before}");
    }
}

#[tokio::test]
async fn a_relay_that_lacks_what_is_demanded_is_not_used() {
    let stage = Stage::new().await;
    let allow = |builder: Builder| builder.allow(vec!["10.0.0.0/8".parse().unwrap()]);
    for (builder, features, lacks) in [
        (allow(stage.builder()), "relay/1 auth port wish allowed\n", Demand::Allow),
        (stage.builder().port(7009), "relay/1 auth ports allow\n", Demand::Port),
        (allow(stage.builder()).port(7009), "relay/1 allow\n", Demand::Port),
        (allow(stage.builder()).port(7009), "relay/1\n", Demand::Allow),
    ] {
        let play = async {
            let client = stage.secure().await;
            client.hears("relay/1\n").await;
            client.says(features).await;
            client.is_closed().await;
        };
        let (bound, ()) = stage.tried(builder, play).await;
        let error = bound.unwrap_err();
        assert!(matches!(error, Error::TooOld { demand, .. } if demand == lacks) && !error.is_temporary(), "{error}");
    }
}

#[tokio::test]
async fn an_old_relay_is_not_used_where_something_is_demanded() {
    let stage = Stage::new().await;
    let builder = || Listener::builder(stage.address()).port(7009).retry_first(true);
    let closes = async {
        stage.plain().await.hears("relay/1\n").await;
    };
    let (bound, ()) = stage.tried(builder(), closes).await;
    let error = bound.unwrap_err();
    assert!(matches!(error, Error::TooOld { demand: Demand::Port, .. }) && !error.is_temporary());
    let sentence = "is too old to give a port that is asked for; ask its operator to update it";
    assert_eq!(error.to_string(), format!("{} {sentence}", stage.address()));

    let silent = async {
        let client = stage.plain().await;
        client.hears("relay/1\n").await;
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        client.is_closed().await;
        let waited = begun.elapsed();
        assert!(waited + Duration::from_millis(100) > RELAY_1_WAIT && waited < RELAY_1_WAIT * 2, "{waited:?}");
    };
    let (bound, ()) = tokio::join!(builder().bind(), silent);
    assert!(matches!(bound.unwrap_err(), Error::TooOld { .. }));
}

#[tokio::test]
async fn a_relay_that_was_not_old_is_waited_for() {
    let stage = Stage::new().await;
    let builder = Listener::builder(stage.address()).protocol(Protocol::Event).port(7009);
    let mut events = builder.events();
    let opens = async |stage: &Stage| {
        let client = stage.plain().await;
        client.hears("relay/1\n").await;
        client.says("relay/1 port\n").await;
        client.hears("event port=7009\nnew\n").await;
        client.says("7009\n").await;
        client
    };
    let (bound, client) = stage.tried(builder, opens(&stage)).await;
    let _listener = bound.unwrap();
    drop(client);
    // It restarts, and closes what its predecessor's port still took.
    stage.plain().await.hears("relay/1\n").await;
    let _client = opens(&stage).await;
    let told = [event_of(&mut events).await, event_of(&mut events).await, event_of(&mut events).await];
    let [Event::Established { .. }, Event::Lost { .. }, Event::Retrying { cause }] = told else { panic!("{told:?}") };
    assert!(matches!(*cause, Error::Unanswered { .. }), "{cause}");
}

#[tokio::test]
async fn a_demanded_port_that_is_taken_ends_the_first_try_only() {
    let stage = Stage::new().await;
    let taken = |builder: Builder| {
        let play = async {
            let client = stage.secure().await;
            client.hears("relay/1\n").await;
            client.says(FEATURES).await;
            client.hears("multiplex port=7009\n").await;
            client.says("error port-taken by another\n").await;
            client
        };
        async { stage.tried(builder, play).await.0.unwrap_err() }
    };
    let error = taken(stage.builder().port(7009).retry_first(true)).await;
    assert!(matches!(error, Error::PortTaken { port: 7009, .. }) && !error.is_temporary());
    let sentence = "is taken; ask for another, or for none to get any that is free";
    assert_eq!(error.to_string(), format!("port 7009 of {} {sentence}", stage.address()));

    let builder = stage.builder().port(7009);
    let mut events = builder.events();
    let (_listener, client) = opened(&stage, builder, "multiplex port=7009\n", "7009\n").await;
    drop(client);
    let client = stage.secure().await;
    client.hears("relay/1\n").await;
    client.says(FEATURES).await;
    client.hears("multiplex port=7009\n").await;
    client.says("error port-taken by another\n").await;
    let retrying = within("a retry", async {
        loop {
            if let Event::Retrying { cause } = event_of(&mut events).await {
                return cause;
            }
        }
    });
    assert!(matches!(*retrying.await, Error::Refused { code: Code::PortTaken, .. }));
}

#[tokio::test]
async fn the_port_that_it_had_is_wished_for_where_that_is_understood() {
    let stage = Stage::new().await;
    let (_listener, client) = opened(&stage, stage.builder().protocol(Protocol::Event), "event\nnew\n", "7001\n").await;
    drop(client);
    let again = async |features: &str, request: &str, answer: &str| {
        let client = stage.secure().await;
        client.hears("relay/1\n").await;
        client.says(features).await;
        client.hears(request).await;
        client.says(answer).await;
    };
    again(FEATURES, "event wish=7001\nnew\n", "7002\n").await;
    again("relay/1 auth port\n", "event\nnew\n", "7003\n").await;
    again(FEATURES, "event wish=7003\nnew\n", "7003\n").await;
}

#[tokio::test]
async fn in_plain_text_nothing_is_wished_for() {
    let stage = Stage::new().await;
    let builder = Listener::builder(stage.address()).protocol(Protocol::Event).user_addresses(false);
    let opens = async || {
        let client = stage.plain().await;
        client.hears("event\nnew\n").await;
        client.says("7001\n").await;
    };
    let (bound, ()) = stage.tried(builder, opens()).await;
    let _listener = bound.unwrap();
    opens().await;
    opens().await;
}

#[tokio::test]
async fn a_final_answer_ends_the_listener_with_it() {
    let stage = Stage::new().await;
    let (mut listener, client) = opened(&stage, stage.builder(), "multiplex\n", "7001\n").await;
    drop(client);
    let client = stage.secure().await;
    client.hears("relay/1\n").await;
    client.says("error revoked by its operator\n").await;
    let error = within("the end", listener.accept()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::Revoked, .. }) && !error.is_temporary(), "{error}");
    assert!(matches!(within("the end", listener.accept()).await, Err(Error::Closed)));
    stage.is_left_alone().await;
    within("close", listener.close()).await;
}

#[test]
fn nothing_shows_the_token() {
    let relay: RelayAddr = "relay.example".parse().unwrap();
    let invite = Invite { name: "laptop".parse().unwrap(), token: token(), relay, pin: Some([1; 32]) };
    let builder = Listener::invited(&invite).unwrap();
    let shown = format!("{invite:?} {builder:?} {builder:#?}");
    assert!(shown.contains("laptop") && shown.contains("***"), "{shown}");
    assert!(!shown.contains(&token().expose()) && !shown.contains("7, 7"), "{shown}");
}
