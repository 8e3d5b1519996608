//! Peers that break the protocol, and those that only seem to.

use super::*;
use crate::yamux::{FrameError, MAX_REFUSED_SYNS, OpenError, StreamEnd};

fn reset(stream: u32) -> Transmit {
    writes_update(Flags::RST, stream, 0)
}

#[test]
fn a_header_of_another_version_ends_the_session() {
    for mut side in [Side::relay_with(1), Side::forwarder_with_one()] {
        side.dies(&[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], &[], FrameError::Version(1).into());
        assert_eq!(side.writes(), protocol_error());
    }
}

#[test]
fn a_header_of_an_unknown_type_ends_the_session() {
    let mut side = Side::relay_with(1);
    side.dies(&[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], &[], FrameError::Kind(4).into());
    assert_eq!(side.writes(), protocol_error());
    assert_eq!(side.session.open(side.now), Err(OpenError::Refused));
}

#[test]
fn a_window_may_be_filled_and_not_overdrawn_by_a_byte() {
    let mut side = Side::relay_with(2);
    side.users = Users::Stall;
    let full = data(Flags::NONE, 1, &vec![0; WINDOW]);
    assert_eq!(side.gets(&full).len(), 1);
    assert_eq!(side.session.queued_bytes(), WINDOW);
    // Other streams have credit of their own.
    assert_eq!(side.gets(&data(Flags::NONE, 3, b"x")).len(), 1);
    side.dies(&data(Flags::NONE, 1, b"x"), &[], SessionError::WindowOverdrawn(id(1)));
    assert_eq!(side.writes(), protocol_error());
}

#[test]
fn the_first_frame_may_carry_a_window_and_not_a_byte_more() {
    let mut side = Side::forwarder();
    let syn = |bytes| data(Flags::SYN, 1, &vec![7; bytes]);
    assert_eq!(side.gets(&syn(WINDOW)), [Event::Opened(id(1)), Event::Payload(id(1), vec![7; WINDOW])]);
    let mut side = Side::forwarder();
    side.dies(&syn(WINDOW + 1), &[Event::Opened(id(1))], SessionError::WindowOverdrawn(id(1)));
    assert_eq!(side.writes(), protocol_error());
    // A relay takes no stream, and no more than a stream's window of one that it refused.
    let mut side = Side::relay();
    assert_eq!(side.gets(&syn(WINDOW)), []);
    side.dies(&syn(WINDOW + 1), &[], SessionError::StrayData(1));
}

#[test]
fn credit_beyond_32_bits_resets_its_stream() {
    let mut side = Side::relay_with(2);
    assert_eq!(side.gets(&update(Flags::NONE, 1, u32::MAX - INITIAL_WINDOW)), []);
    assert_eq!(side.session.credit(id(1)).unwrap().0, u32::MAX);
    assert_eq!(side.gets(&update(Flags::NONE, 1, 1)), [Event::Ended(id(1), StreamEnd::CreditOverflow)]);
    assert_eq!(side.writes(), [reset(1)]);
    assert_eq!(side.session.len(), 1);
}

#[test]
fn credit_beyond_32_bits_with_a_syn_opens_nothing() {
    let mut side = Side::forwarder();
    assert_eq!(side.gets(&update(Flags::SYN, 1, u32::MAX - INITIAL_WINDOW + 1)), []);
    assert_eq!(side.writes(), [reset(1)]);
    assert_eq!(side.gets(&update(Flags::SYN, 3, u32::MAX - INITIAL_WINDOW)), [Event::Opened(id(3))]);
    assert_eq!(side.session.credit(id(3)).unwrap().0, u32::MAX);
}

#[test]
fn a_second_fin_is_nothing() {
    let mut side = Side::relay_with(1);
    assert_eq!(side.gets(&update(Flags::FIN, 1, 0)), [Event::Finished(id(1))]);
    assert_eq!(side.gets(&update(Flags::FIN, 1, 0)), []);
    assert_eq!(side.gets(&data(Flags::FIN, 1, b"")), []);
    assert_eq!(side.session.len(), 1);
    // Neither is one for a stream that both sides have finished.
    side.session.finish(id(1));
    assert_eq!(side.writes(), [writes_update(Flags::FIN, 1, 0)]);
    assert!(side.session.is_empty());
    assert_eq!(side.gets(&update(Flags::FIN, 1, 0)), []);
    assert_eq!(side.writes(), []);
}

#[test]
fn data_after_the_end_resets_its_stream_alone() {
    let mut side = Side::relay_with(2);
    assert_eq!(side.gets(&data(Flags::FIN, 1, b"last")).len(), 2);
    let late = [data(Flags::NONE, 1, &vec![0; 32 * 1024]), data(Flags::NONE, 3, b"fine")].concat();
    let ended = Event::Ended(id(1), StreamEnd::DataAfterFin);
    assert_eq!(side.gets(&late), [ended, Event::Payload(id(3), b"fine".to_vec())]);
    assert_eq!(side.writes(), [reset(1)]);
    // More of it is on its way still.
    assert_eq!(side.gets(&data(Flags::NONE, 1, &vec![0; 32 * 1024])), []);
    assert_eq!(side.writes(), []);
}

#[test]
fn stream_zero_is_no_stream() {
    for bytes in
        [data(Flags::NONE, 0, b"x"), data(Flags::SYN, 0, b""), update(Flags::SYN, 0, 0), update(Flags::NONE, 0, 9)]
    {
        for mut side in [Side::relay_with(1), Side::forwarder_with_one()] {
            side.dies(&bytes, &[], SessionError::StreamZero);
            assert_eq!(side.writes(), protocol_error());
        }
    }
}

#[test]
fn four_gigabytes_for_an_unknown_stream_end_the_session() {
    for mut side in [Side::relay_with(1), Side::forwarder_with_one()] {
        side.dies(&frame(Kind::Data, Flags::NONE, 99, u32::MAX), &[], SessionError::StrayData(99));
        assert_eq!(side.writes(), protocol_error());
    }
}

#[test]
fn a_stream_opened_twice_ends_the_session() {
    let mut side = Side::forwarder_with_one();
    side.dies(&update(Flags::SYN, 1, 0), &[], SessionError::DuplicateSyn(id(1)));
    assert_eq!(side.writes(), protocol_error());
}

#[test]
fn a_relay_refuses_streams_and_in_the_end_the_peer() {
    let mut side = Side::relay_with(1);
    for number in 0..MAX_REFUSED_SYNS {
        let stream = 100 + number;
        assert_eq!(side.gets(&data(Flags::SYN, stream, b"hello")), []);
        assert_eq!(side.writes(), [reset(stream)]);
        assert_eq!(side.gets(&data(Flags::NONE, stream, b"more")), []);
    }
    assert_eq!(side.session.len(), 1);
    side.dies(&update(Flags::SYN, 200, 0), &[], SessionError::UnexpectedSyn);
    assert_eq!(side.writes(), protocol_error());
}

#[test]
fn go_away_of_any_code() {
    let mut side = Side::relay_with(1);
    assert_eq!(side.gets(&go_away(0)), [Event::Refusing]);
    assert_eq!(side.session.open(side.now), Err(OpenError::Refused));
    assert_eq!(side.gets(&data(Flags::NONE, 1, b"lives")), [Event::Payload(id(1), b"lives".to_vec())]);
    for code in [1, 2, 3, u32::MAX] {
        let mut side = Side::relay_with(1);
        side.dies(&go_away(code), &[], SessionError::GoneAway(code));
        assert_eq!(side.writes(), [], "who ended the session need not be told");
    }
}

#[test]
fn a_second_ack_is_nothing() {
    let mut side = Side::relay_with(1);
    assert_eq!(side.gets(&update(Flags::ACK, 1, 0)), []);
    assert_eq!(side.gets(&data(Flags::ACK, 1, b"x")), [Event::Payload(id(1), b"x".to_vec())]);
    // Nor one for a stream that the peer itself opened, or that nobody did.
    let mut side = Side::forwarder_with_one();
    assert_eq!(side.gets(&[update(Flags::ACK, 1, 0), update(Flags::ACK, 5, 0)].concat()), []);
    assert_eq!(side.writes(), []);
}

#[test]
fn frames_for_unknown_streams_are_nothing() {
    for mut side in [Side::relay_with(1), Side::forwarder_with_one()] {
        for flags in [Flags::NONE, Flags::ACK, Flags::FIN, Flags::RST] {
            assert_eq!(side.gets(&update(flags, 99, u32::MAX)), []);
            assert_eq!(side.gets(&data(flags, 99, &[1; 1000])), []);
        }
        assert_eq!((side.writes(), side.session.len()), (vec![], 1));
    }
}

#[test]
fn data_for_a_stream_just_reset_is_discarded_up_to_its_window() {
    let mut side = Side::relay_with(2);
    side.session.reset(id(1));
    assert_eq!(side.writes(), [reset(1)]);
    let half = data(Flags::NONE, 1, &vec![0; WINDOW / 2]);
    assert_eq!(
        side.gets(&[&half[..], &half, &update(Flags::FIN, 1, 0), &data(Flags::NONE, 3, b"x")].concat()).len(),
        1
    );
    side.dies(&data(Flags::NONE, 1, b"x"), &[], SessionError::StrayData(1));
}

#[test]
fn a_reset_amid_a_frame_passes_over_its_rest() {
    let mut side = Side::relay_with(1);
    let bytes = data(Flags::FIN, 1, b"first, second");
    let (first, second) = bytes.split_at(HEADER_LEN + 5);
    assert_eq!(side.gets(first), [Event::Payload(id(1), b"first".to_vec())]);
    side.session.reset(id(1));
    assert_eq!(side.session.payload_ahead(), None);
    assert_eq!(side.gets(second), []);
    assert_eq!(side.gets(&ping(Flags::SYN, 5)), []);
    assert_eq!(side.writes(), [writes(Kind::Ping, Flags::ACK, 0, 5), reset(1)]);
}

#[test]
fn opened_and_reset_at_once_never_was() {
    let mut side = Side::forwarder();
    assert_eq!(side.gets(&update(Flags::SYN | Flags::RST, 1, 0)), []);
    assert_eq!(side.gets(&data(Flags::SYN | Flags::RST, 1, b"x")), []);
    assert_eq!(side.writes(), []);
    assert!(side.session.is_at_rest());
}

#[test]
fn opened_and_finished_at_once_may_still_be_answered() {
    let mut side = Side::forwarder();
    let asked = Event::Payload(id(2), b"ask".to_vec());
    let events = side.gets(&data(Flags::SYN | Flags::FIN, 2, b"ask"));
    assert_eq!(events, [Event::Opened(id(2)), asked, Event::Finished(id(2))]);
    side.session.ready(id(2));
    assert_eq!(side.write(), Some(writes_update(Flags::ACK, 2, 0)));
    assert_eq!(side.sends(2, 10), 10);
}
