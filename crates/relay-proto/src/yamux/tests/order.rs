//! What is written first.

use super::*;
use crate::yamux::{FRAME_LARGEST, FRAME_SMALLEST};

#[test]
fn a_pong_is_the_next_frame_then_what_is_ahead_of_data() {
    let mut side = Side::relay_with(3);
    side.session.ready(id(1));
    side.session.finish(id(5));
    side.gets(&data(Flags::NONE, 3, &vec![0; WINDOW / 2]));
    assert_eq!(side.session.open(side.now), Ok(id(7)));
    side.session.reset(id(3));
    side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 2]));
    side.gets(&ping(Flags::SYN, 9));
    side.session.go_away();
    assert_eq!(
        side.writes(),
        [
            writes(Kind::Ping, Flags::ACK, 0, 9),
            writes(Kind::Ping, Flags::SYN, 0, 0),
            writes(Kind::GoAway, Flags::NONE, 0, 0),
            writes_update(Flags::RST, 3, 0),
            writes_update(Flags::SYN, 7, 0),
            writes_update(Flags::NONE, 1, INITIAL_WINDOW / 2),
            Transmit::Data { stream: id(1), max: FRAME_SMALLEST },
            writes_update(Flags::FIN, 5, 0),
        ]
    );
}

#[test]
fn only_what_goes_ahead_of_data_is_control() {
    let mut side = Side::relay_with(2);
    side.session.ready(id(1));
    side.session.finish(id(3));
    assert_eq!(side.session.poll_control(side.now), None);
    side.gets(&ping(Flags::SYN, 1));
    assert!(side.session.poll_control(side.now).is_some());
    assert_eq!(side.session.poll_control(side.now), None);
    assert_eq!(side.writes().len(), 2);
}

#[test]
fn a_stream_begins_with_its_syn_and_ends_with_its_fin() {
    let mut side = Side::relay();
    let stream = side.session.open(side.now).unwrap();
    // The user has spoken and finished before anything was written.
    side.session.ready(stream);
    assert_eq!(side.write(), Some(writes_update(Flags::SYN, 1, 0)));
    assert_eq!(side.sends(1, 100), 100);
    side.session.ready(stream);
    assert_eq!(side.sends(1, 10), 10);
    side.session.finish(stream);
    assert_eq!(side.writes(), [writes_update(Flags::FIN, 1, 0)]);
    // Nothing follows an end.
    side.session.ready(stream);
    side.session.finish(stream);
    assert_eq!(side.writes(), []);
}

#[test]
fn the_ack_is_written_at_once_and_once() {
    let mut side = Side::forwarder();
    side.gets(&data(Flags::SYN, 1, &vec![0; WINDOW / 2]));
    side.session.ready(id(1));
    assert_eq!(side.write(), Some(writes(Kind::Ping, Flags::SYN, 0, 0)));
    // It carries the credit that is due already.
    assert_eq!(side.write(), Some(writes_update(Flags::ACK, 1, INITIAL_WINDOW / 2)));
    assert_eq!(side.sends(1, 5), 5);
    side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 2]));
    assert_eq!(side.writes(), [writes_update(Flags::NONE, 1, INITIAL_WINDOW / 2)]);
}

#[test]
fn a_reset_drops_what_its_stream_has_to_say() {
    let mut side = Side::relay_with(2);
    side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 2]));
    side.session.ready(id(1));
    side.session.ready(id(3));
    assert_eq!(side.write(), Some(writes(Kind::Ping, Flags::SYN, 0, 0)));
    side.session.reset(id(1));
    assert_eq!(side.write(), Some(writes_update(Flags::RST, 1, 0)));
    assert_eq!(side.sends(3, 1), 1);
    assert_eq!(side.writes(), []);
    // Bytes that were read from its source meanwhile have no frame.
    assert_eq!(side.session.sent(id(1), 1), None);
}

#[test]
fn a_stream_that_the_peer_never_heard_of_needs_no_reset() {
    let mut side = Side::relay();
    let stream = side.session.open(side.now).unwrap();
    side.session.reset(stream);
    assert_eq!(side.writes(), []);
    assert!(side.session.is_at_rest());
}

#[test]
fn streams_that_wait_share_a_round_and_one_alone_has_it_whole() {
    let mut side = Side::relay_with(3);
    side.session.set_round(6 * FRAME_SMALLEST);
    for number in [1, 3, 5] {
        side.session.ready(id(number));
    }
    for _ in 0..2 {
        for number in [1, 3, 5] {
            assert_eq!(side.sends(number, u32::MAX), 2 * FRAME_SMALLEST);
            side.session.ready(id(number));
        }
    }
    // One has no more, then another: what is left to the others grows once they have said so.
    assert_eq!(side.sends(1, u32::MAX), 2 * FRAME_SMALLEST);
    assert_eq!(side.sends(3, u32::MAX), 3 * FRAME_SMALLEST);
    assert_eq!(side.sends(5, u32::MAX), 6 * FRAME_SMALLEST);
    side.gets(&update(Flags::NONE, 5, 10 * FRAME_LARGEST));
    // No frame is larger than the largest nor, however many wait, smaller than the smallest.
    for (round, frame) in [(u32::MAX, FRAME_LARGEST), (0, FRAME_SMALLEST)] {
        side.session.set_round(round);
        side.session.ready(id(5));
        assert_eq!(side.sends(5, u32::MAX), frame);
    }
}

#[test]
fn what_the_peer_granted_is_never_exceeded() {
    let mut side = Side::relay_with(1);
    let mut sent = 0;
    side.session.ready(id(1));
    while let Some(Transmit::Data { stream, max }) = side.write() {
        sent += max;
        side.session.sent(stream, max).unwrap();
        side.session.ready(stream);
    }
    assert_eq!(sent, INITIAL_WINDOW);
    // A byte of credit is a byte; and what is ready need not be said again.
    side.gets(&update(Flags::NONE, 1, 1));
    assert_eq!(side.sends(1, u32::MAX), 1);
    assert_eq!(side.writes(), []);
    // An end needs no credit.
    side.session.finish(id(1));
    assert_eq!(side.writes(), [writes_update(Flags::FIN, 1, 0)]);
}
