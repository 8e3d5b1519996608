//! Keepalive.

use super::*;

fn ping_of(side: &mut Side) -> u32 {
    match side.writes()[..] {
        [Transmit::Frame(Header { kind: Kind::Ping, flags: Flags::SYN, stream: 0, length })] => length,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_silent_peer_is_asked_after_ten_seconds_and_dead_after_twenty_more() {
    let mut side = Side::relay_with(1);
    let start = side.now;
    assert_eq!(side.session.poll_timeout(), Some(start + Duration::from_secs(10)));
    assert_eq!(side.wait(9_999), Ok(()));
    assert_eq!(side.writes(), []);
    assert_eq!(side.wait(1), Ok(()));
    ping_of(&mut side);
    assert_eq!(side.session.poll_timeout(), Some(start + Duration::from_secs(30)));
    assert_eq!(side.wait(19_999), Ok(()));
    assert_eq!(side.writes(), [], "one ping is enough");
    assert_eq!(side.wait(1), Err(SessionError::Silent));
    assert!(side.session.is_at_rest());
    assert_eq!((side.writes(), side.session.poll_timeout()), (vec![], None));
}

#[test]
fn a_pong_starts_a_new_silence() {
    let mut side = Side::relay_with(1);
    for _ in 0..10 {
        side.wait(10_000).unwrap();
        let value = ping_of(&mut side);
        side.wait(5_000).unwrap();
        assert_eq!(side.gets(&ping(Flags::ACK, value)), []);
    }
    assert_eq!(side.session.round_trip(), Some(Duration::from_secs(5)));
}

#[test]
fn bytes_keep_a_link_alive_without_a_pong() {
    let mut side = Side::relay_with(1);
    side.wait(10_000).unwrap();
    ping_of(&mut side);
    // Ten minutes of a slow path, on which a frame has not even been completed.
    let bytes = data(Flags::NONE, 1, &[0; 48]);
    for byte in bytes.chunks(1) {
        side.wait(9_999).unwrap();
        side.gets(byte);
    }
    assert_eq!(side.writes(), []);
    // Then silence counts anew, and the old question does not stand for a new one.
    side.wait(10_000).unwrap();
    ping_of(&mut side);
    side.wait(19_999).unwrap();
    assert_eq!(side.wait(1), Err(SessionError::Silent));
}

#[test]
fn bytes_that_pass_the_session_by_are_a_sign_of_life() {
    let mut side = Side::relay_with(1);
    side.gets(&frame(Kind::Data, Flags::NONE, 1, 100_000));
    for _ in 0..10 {
        side.wait(9_000).unwrap();
        side.session.received_elsewhere(1_000, side.now);
        side.session.delivered(id(1), 1_000, side.now);
    }
    assert_eq!(side.writes(), []);
}

#[test]
fn a_link_that_takes_nothing_dies_as_well() {
    let mut side = Side::relay_with(1);
    side.wait(10_000).unwrap();
    side.wait(10_000).unwrap();
    assert_eq!(side.session.poll_timeout(), Some(side.now + Duration::from_secs(10)));
    assert_eq!(side.wait(10_000), Err(SessionError::Silent));
}

#[test]
fn a_clock_that_jumps_ends_nothing_early() {
    // The driver comes late: what has arrived meanwhile counts, if it is read first.
    let mut side = Side::relay_with(1);
    side.now += Duration::from_secs(100);
    side.gets(&ping(Flags::SYN, 1));
    assert_eq!(side.wait(0), Ok(()));
}
