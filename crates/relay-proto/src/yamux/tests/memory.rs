//! What a peer can make a session hold, however it sends and however little it reads.

use std::sync::Arc;

use super::*;
use crate::yamux::{Budget, MAX_PENDING_PONGS, StreamEnd};

const FLOOD: u32 = 200_000;

#[test]
fn pings_whose_pongs_are_never_read() {
    let mut side = Side::relay_with(1);
    for value in 0..FLOOD {
        assert_eq!(side.gets(&ping(Flags::SYN, value)), []);
    }
    assert_eq!(side.session.held(), [MAX_PENDING_PONGS, 0, 0, 0, 0]);
    let first = |value| writes(Kind::Ping, Flags::ACK, 0, value);
    assert_eq!(side.writes(), (0..16).map(first).collect::<Vec<_>>());
    assert_eq!(side.gets(&ping(Flags::SYN, 1)), []);
    assert_eq!(side.writes(), [first(1)]);
}

#[test]
fn pongs_that_nobody_asked_for() {
    let mut side = Side::relay_with(1);
    for value in 0..1000 {
        assert_eq!(side.gets(&ping(Flags::ACK, value)), []);
    }
    assert_eq!((side.session.round_trip(), side.writes()), (None, vec![]));
}

/// Opens and resets streams `numbers`, reading nothing.
fn open_and_reset(numbers: impl Iterator<Item = u32>) {
    let mut side = Side::forwarder();
    for number in numbers {
        let ended = Event::Ended(id(number), StreamEnd::PeerReset);
        let bytes = [update(Flags::SYN, number, 0), update(Flags::RST, number, 0)].concat();
        assert_eq!(side.gets(&bytes), [Event::Opened(id(number)), ended]);
        let [pongs, resets, control, turns, remembered] = side.session.held();
        assert!(control <= 100, "{control} control frames wait");
        assert_eq!([pongs, resets, turns, remembered], [0; 4]);
    }
    assert_eq!(side.writes(), []);
    assert!(side.session.is_at_rest());
}

#[test]
fn streams_opened_and_reset_without_end() {
    open_and_reset(1..=FLOOD);
    open_and_reset(std::iter::repeat_n(1, FLOOD as usize));
}

#[test]
fn streams_opened_and_reset_in_one_frame() {
    let mut side = Side::forwarder();
    for number in 1..=FLOOD {
        assert_eq!(side.gets(&update(Flags::SYN | Flags::RST, number, 0)), []);
    }
    assert_eq!(side.session.held(), [0; 5]);
}

/// Makes us reset stream after stream, and reads none of it. Gives how far it came.
fn make_us_reset(numbers: impl Iterator<Item = u32>) -> usize {
    let mut side = Side::new(Role::Forwarder, Config { max_streams: 1000, ..Config::default() });
    for (at, number) in numbers.enumerate() {
        let bytes = [update(Flags::SYN | Flags::FIN, number, 0), data(Flags::NONE, number, b"late")].concat();
        if side.receive(&bytes).1 == Err(SessionError::TooManyResets) {
            assert!(side.session.is_at_rest());
            return at;
        }
        let [_, resets, control, _, remembered] = side.session.held();
        assert!(resets <= 1000 && control <= 100 && remembered <= 4096);
    }
    panic!("no bound was reached");
}

#[test]
fn resets_that_are_never_read() {
    assert_eq!(make_us_reset(1..=FLOOD), 1000);
    assert_eq!(make_us_reset(std::iter::repeat_n(1, FLOOD as usize)), 1000);
}

#[test]
fn resets_that_are_read_have_no_end() {
    let mut side = Side::forwarder();
    for number in 1..=20_000 {
        let bytes = [update(Flags::SYN | Flags::FIN, number, 0), data(Flags::NONE, number, b"late")].concat();
        assert_eq!(side.gets(&bytes).len(), 3);
        assert_eq!(side.writes(), [writes_update(Flags::RST, number, 0)]);
    }
    assert!(side.session.is_at_rest());
    assert!(side.session.held()[4] <= 4096);
}

#[test]
fn empty_data_and_single_bytes() {
    let mut side = Side::forwarder_with_one();
    side.users = Users::Stall;
    for _ in 0..FLOOD {
        assert_eq!(side.gets(&data(Flags::NONE, 1, b"")), []);
        assert_eq!(side.gets(&data(Flags::NONE, 9, b"")), []);
        assert_eq!(side.gets(&data(Flags::NONE, 1, b"x")).len(), 1);
    }
    assert_eq!((side.session.queued_bytes(), side.session.held()), (FLOOD as usize, [0; 5]));
}

#[test]
fn window_updates_that_lead_to_nothing() {
    let mut side = Side::relay_with(1);
    for _ in 0..10_000 {
        side.session.ready(id(1));
        assert_eq!(side.gets(&update(Flags::NONE, 1, 1)), []);
    }
    assert_eq!(side.session.held(), [0, 0, 0, 1, 0]);
}

fn stalled(max_queued: usize, streams: u32) -> Side {
    let mut side = Side::relay_with(streams);
    side.session = {
        let mut fresh = Side::new(Role::Relay, Config { max_queued, ..Config::default() });
        for _ in 0..streams {
            let opened = fresh.session.open(fresh.now).unwrap();
            fresh.gets(&update(Flags::ACK, opened.get(), 0));
        }
        fresh.writes();
        fresh.session
    };
    side.users = Users::Stall;
    side
}

#[test]
fn at_the_bound_the_user_who_took_nothing_for_longest_is_reset() {
    let mut side = stalled(3 * WINDOW, 4);
    for number in [3, 1, 5, 7] {
        side.now += Duration::from_secs(1);
        side.gets(&data(Flags::NONE, number, &vec![0; WINDOW - 1]));
        let overflowed = side.session.overflowed();
        assert_eq!(overflowed, (number == 7).then_some((id(1), StreamEnd::Stalled)));
        if number == 5 {
            // Of the first two the first moves: now the second has waited longest.
            side.session.dequeued(id(3), 1, side.now);
        }
    }
    assert_eq!(side.session.len(), 3);
    assert_eq!(side.writes(), [writes_update(Flags::RST, 1, 0)]);
    assert_eq!(side.session.queued_bytes(), 3 * (WINDOW - 1) - 1);
    assert_eq!(side.session.overflowed(), None);
}

/// Two sessions with stream 1, whose users take nothing, and what they may hold together.
fn sharing(most: usize) -> ([Side; 2], Arc<Budget>) {
    let budget = Arc::new(Budget::new(most));
    let sides = [(); 2].map(|()| {
        let config = Config { budget: Some(budget.clone()), ..Config::default() };
        let mut side = Side::new(Role::Relay, config);
        side.users = Users::Stall;
        side.session.open(side.now).unwrap();
        side.writes();
        side.gets(&update(Flags::ACK, 1, 0));
        side
    });
    (sides, budget)
}

#[test]
fn beyond_what_all_sessions_may_hold_the_one_that_is_given_more_gives_up_a_stream() {
    let ([mut first, mut second], budget) = sharing(WINDOW);
    first.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 2]));
    second.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 2]));
    assert_eq!((first.session.overflowed(), second.session.overflowed()), (None, None));
    second.gets(&data(Flags::NONE, 1, b"x"));
    assert_eq!(second.session.overflowed(), Some((id(1), StreamEnd::CrowdedOut)));
    assert_eq!(second.writes(), [writes_update(Flags::RST, 1, 0)]);
    assert_eq!((first.session.overflowed(), second.session.overflowed()), (None, None));
    assert_eq!(budget.held(), WINDOW / 2);
    // Whatever becomes of a session, nothing of it stays counted.
    first.dies(&go_away(1), &[], SessionError::GoneAway(1));
    assert_eq!(budget.held(), 0);
}

#[test]
fn above_half_of_what_all_sessions_may_hold_no_credit_is_renewed_to_a_stream_with_a_queue() {
    let ([mut first, mut second], budget) = sharing(2 * WINDOW);
    first.gets(&data(Flags::NONE, 1, &vec![0; WINDOW]));
    second.gets(&data(Flags::NONE, 1, &vec![0; WINDOW]));
    second.session.dequeued(id(1), WINDOW * 3 / 4, second.now);
    assert_eq!(second.writes(), []);
    drop(first);
    assert_eq!(budget.held(), WINDOW / 4);
    second.session.dequeued(id(1), 1, second.now);
    assert_eq!(second.write(), Some(writes(Kind::Ping, Flags::SYN, 0, 0)));
    assert_eq!(second.writes(), [writes_update(Flags::NONE, 1, INITIAL_WINDOW / 4 * 3 + 1)]);
}

#[test]
fn above_half_of_the_bound_no_credit_is_renewed_to_a_stream_with_a_queue() {
    let mut side = stalled(2 * WINDOW, 2);
    side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW]));
    side.gets(&data(Flags::NONE, 3, &vec![0; WINDOW]));
    // Stream 1 takes more than half of its window, and the session still holds more than half.
    side.session.dequeued(id(1), WINDOW * 3 / 4, side.now);
    assert_eq!(side.writes(), []);
    // What has no queue goes on as ever.
    side.session.dequeued(id(1), WINDOW / 4, side.now);
    side.session.check();
    assert_eq!(side.write(), Some(writes(Kind::Ping, Flags::SYN, 0, 0)));
    assert_eq!(side.writes(), [writes_update(Flags::NONE, 1, INITIAL_WINDOW)]);
    // Below half, a queue no longer matters.
    side.session.dequeued(id(3), WINDOW * 3 / 4, side.now);
    assert_eq!(side.writes(), [writes_update(Flags::NONE, 3, INITIAL_WINDOW / 4 * 3)]);
}

#[test]
fn many_streams_with_little_each_take_no_quadratic_step() {
    // Not a timed assertion: with a quadratic step this test takes minutes.
    const MANY: u32 = 20_000;
    let mut side = Side::new(Role::Forwarder, Config { max_streams: MANY as usize, ..Config::default() });
    let each = (1..=MANY).map(|number| [update(Flags::SYN, number, 0), data(Flags::NONE, number, b"hello")].concat());
    let bytes = each.collect::<Vec<_>>().concat();
    assert_eq!(side.gets(&bytes).len(), 2 * MANY as usize);
    for number in 1..=MANY {
        side.session.ready(id(number));
    }
    assert_eq!(side.writes().len(), 2 * MANY as usize);
    for number in 1..=MANY {
        side.session.ready(id(number));
        side.session.finish(id(number));
    }
    let fins = (1..=MANY).flat_map(|number| update(Flags::FIN, number, 0)).collect::<Vec<_>>();
    assert_eq!(side.gets(&fins).len(), MANY as usize);
    assert_eq!(side.writes().len(), MANY as usize);
    assert!(side.session.is_at_rest());
}

#[test]
fn a_hundred_thousand_streams_one_after_another() {
    let mut side = Side::relay();
    for number in (1..).step_by(2).take(100_000) {
        let opened = side.session.open(side.now).unwrap();
        assert_eq!(opened, id(number));
        side.session.ready(opened);
        assert_eq!(side.writes().len(), 2);
        if number % 3 == 0 {
            side.session.reset(opened);
            assert_eq!(side.writes(), [writes_update(Flags::RST, number, 0)]);
        } else {
            side.session.finish(opened);
            side.gets(&data(Flags::ACK | Flags::FIN, number, b"bye"));
            assert_eq!(side.writes(), [writes_update(Flags::FIN, number, 0)]);
        }
    }
    assert!(side.session.is_at_rest());
}
