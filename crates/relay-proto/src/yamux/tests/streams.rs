//! Streams from their opening to their end.

use super::*;
use crate::yamux::{OpenError, StreamEnd};

#[test]
fn at_most_256_streams_wait_for_the_peer() {
    let mut side = Side::relay();
    for _ in 0..256 {
        side.session.open(side.now).unwrap();
    }
    assert_eq!(side.session.open(side.now), Err(OpenError::Full));
    side.writes();
    // Whatever the peer says to a stream ends the wait, each time for one.
    let answers = [
        (update(Flags::ACK, 1, 0), Event::Acknowledged(id(1))),
        (update(Flags::FIN, 3, 0), Event::Finished(id(3))),
        (update(Flags::RST, 5, 0), Event::Ended(id(5), StreamEnd::PeerReset)),
    ];
    for (answer, event) in answers {
        assert_eq!(side.gets(&answer), [event]);
        assert!(side.session.open(side.now).is_ok());
        assert_eq!(side.session.open(side.now), Err(OpenError::Full));
        assert_eq!(side.gets(&answer).len(), 0, "the same answer again frees no second place");
        assert_eq!(side.session.open(side.now), Err(OpenError::Full));
    }
    // So does our own reset.
    side.session.reset(id(7));
    assert!(side.session.open(side.now).is_ok());
    side.session.check();
}

#[test]
fn an_ack_may_come_with_the_first_data() {
    let mut side = Side::relay();
    side.session.open(side.now).unwrap();
    side.writes();
    let payload = Event::Payload(id(1), b"banner".to_vec());
    assert_eq!(side.gets(&data(Flags::ACK, 1, b"banner")), [Event::Acknowledged(id(1)), payload]);
}

#[test]
fn an_ack_may_grant_more_than_the_first_window() {
    let mut side = Side::relay();
    side.session.open(side.now).unwrap();
    side.writes();
    side.gets(&update(Flags::ACK, 1, 6 * 1024 * 1024 - INITIAL_WINDOW));
    assert_eq!(side.session.credit(id(1)).unwrap().0, 6 * 1024 * 1024);
}

#[test]
fn ids_are_odd_and_wrap_to_one_past_those_in_use() {
    let mut side = Side::relay_with(2);
    side.session.set_next_id(id(u32::MAX - 2));
    let opened: Vec<_> = (0..4).map(|_| side.session.open(side.now).unwrap().get()).collect();
    assert_eq!(opened, [u32::MAX - 2, u32::MAX, 5, 7]);
    // An id that was reset is taken again, and its RST goes before its SYN.
    side.writes();
    side.session.reset(id(5));
    side.session.set_next_id(id(5));
    assert_eq!(side.session.open(side.now), Ok(id(5)));
    assert_eq!(side.writes(), [writes_update(Flags::RST, 5, 0), writes_update(Flags::SYN, 5, 0)]);
    assert_eq!(side.gets(&data(Flags::NONE, 5, b"new")), [Event::Payload(id(5), b"new".to_vec())]);
}

#[test]
fn a_forwarder_opens_nothing_and_takes_either_parity() {
    let mut side = Side::forwarder();
    assert_eq!(side.session.open(side.now), Err(OpenError::Refused));
    for number in [1, 2, u32::MAX] {
        assert_eq!(side.gets(&update(Flags::SYN, number, 0)), [Event::Opened(id(number))]);
        assert_eq!(side.writes(), [writes_update(Flags::ACK, number, 0)]);
    }
}

#[test]
fn a_forwarder_refuses_streams_beyond_its_bound_and_lives_on() {
    let mut side = Side::new(Role::Forwarder, Config { max_streams: 2, ..Config::default() });
    side.gets(&[update(Flags::SYN, 1, 0), update(Flags::SYN, 3, 0)].concat());
    side.writes();
    for number in (5..200).step_by(2) {
        assert_eq!(side.gets(&data(Flags::SYN, number, b"x")), []);
        assert_eq!(side.writes(), [writes_update(Flags::RST, number, 0)]);
    }
    side.gets(&update(Flags::RST, 1, 0));
    assert_eq!(side.gets(&update(Flags::SYN, 201, 0)), [Event::Opened(id(201))]);
}

#[test]
fn who_has_gone_away_refuses_streams_and_keeps_those_it_has() {
    let mut side = Side::forwarder_with_one();
    side.session.go_away();
    side.session.go_away();
    assert_eq!(side.writes(), [writes(Kind::GoAway, Flags::NONE, 0, 0)]);
    assert_eq!(side.gets(&update(Flags::SYN, 3, 0)), []);
    assert_eq!(side.writes(), [writes_update(Flags::RST, 3, 0)]);
    assert_eq!(side.gets(&data(Flags::NONE, 1, b"x")).len(), 1);
    let mut side = Side::relay_with(1);
    side.session.go_away();
    assert_eq!(side.session.open(side.now), Err(OpenError::Refused));
}

#[test]
fn a_half_closed_stream_carries_the_other_direction() {
    let mut side = Side::relay_with(1);
    side.session.finish(id(1));
    assert_eq!(side.writes(), [writes_update(Flags::FIN, 1, 0)]);
    // Credit is renewed as ever.
    for _ in 0..4 {
        assert_eq!(side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 2])).len(), 1);
        let writes = side.writes();
        assert_eq!(writes.last(), Some(&writes_update(Flags::NONE, 1, INITIAL_WINDOW / 2)));
    }
    assert_eq!(side.gets(&data(Flags::FIN, 1, b"end")).len(), 2);
    assert!(side.session.is_at_rest());
}

#[test]
fn a_stream_with_a_queue_lives_until_it_is_taken() {
    let mut side = Side::relay_with(1);
    side.users = Users::Stall;
    side.gets(&data(Flags::FIN, 1, b"late reader"));
    side.session.finish(id(1));
    side.writes();
    assert_eq!(side.session.len(), 1);
    side.session.dequeued(id(1), 4, side.now);
    assert_eq!(side.session.len(), 1);
    side.session.dequeued(id(1), 7, side.now);
    assert!(side.session.is_at_rest());
}

#[test]
fn payload_that_passes_the_session_by_counts_like_any_other() {
    let mut through = Side::relay_with(1);
    let mut past = Side::relay_with(1);
    let bytes = data(Flags::FIN, 1, &[1; 1000]);
    assert_eq!(through.gets(&bytes).last(), Some(&Event::Finished(id(1))));

    let mut header = &bytes[..HEADER_LEN];
    assert_eq!(past.session.payload_ahead(), None);
    assert_eq!(past.session.receive(&mut header, past.now), Ok(None));
    assert_eq!(past.session.payload_ahead(), Some((id(1), 1000)));
    past.session.received_elsewhere(600, past.now);
    past.session.delivered(id(1), 600, past.now);
    assert_eq!(past.gets(&bytes[..100]), [Event::Payload(id(1), bytes[..100].to_vec())]);
    assert_eq!(past.session.payload_ahead(), Some((id(1), 300)));
    past.session.received_elsewhere(300, past.now);
    past.session.delivered(id(1), 300, past.now);
    assert_eq!(past.gets(&[]), [Event::Finished(id(1))]);
    assert_eq!(past.session.payload_ahead(), None);
    assert_eq!(past.session.credit(id(1)), through.session.credit(id(1)));
    past.session.check();
}

#[test]
fn late_words_of_the_driver_make_no_credit() {
    let mut side = Side::forwarder_with_one();
    side.gets(&[update(Flags::RST, 1, 0), update(Flags::SYN, 1, 0)].concat());
    side.session.delivered(id(1), WINDOW, side.now);
    side.session.dequeued(id(1), WINDOW, side.now);
    side.session.check();
    assert_eq!(side.writes(), [writes_update(Flags::ACK, 1, 0)]);
    side.session.queued(id(9), 1, side.now);
    side.session.ready(id(9));
    side.session.finish(id(9));
    side.session.reset(id(9));
    side.session.check();
    assert_eq!(side.writes(), []);
}
