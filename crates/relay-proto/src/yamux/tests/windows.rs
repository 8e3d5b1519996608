//! Windows that grow with the path.

use super::*;

const RTT: u64 = 100;

/// Answers the pings that are due, after a round trip; gives what else is written.
fn answer(side: &mut Side) -> Vec<Transmit> {
    let writes = side.writes();
    for written in &writes {
        if let Transmit::Frame(Header { kind: Kind::Ping, length, .. }) = written {
            side.wait(RTT).unwrap();
            side.gets(&ping(Flags::ACK, *length));
        }
    }
    writes.into_iter().filter(|w| !matches!(w, Transmit::Frame(Header { kind: Kind::Ping, .. }))).collect()
}

/// A relay with one stream on a path whose round trip has been measured.
fn measured(config: Config) -> Side {
    let mut side = Side::new(Role::Relay, config);
    side.session.open(side.now).unwrap();
    side.writes();
    side.gets(&update(Flags::ACK, 1, 0));
    side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 2]));
    assert_eq!(answer(&mut side), [writes_update(Flags::NONE, 1, INITIAL_WINDOW / 2)]);
    assert_eq!(side.session.round_trip(), Some(Duration::from_millis(RTT)));
    assert_eq!(side.session.window(id(1)), Some(INITIAL_WINDOW), "nothing grows before a round trip is known");
    side
}

/// Lets the peer send half of the window after `millis`; gives the window then.
fn half(side: &mut Side, millis: u64) -> u32 {
    let window = side.session.window(id(1)).unwrap();
    side.wait(millis).unwrap();
    side.gets(&data(Flags::NONE, 1, &vec![0; window as usize / 2]));
    let grown = side.session.window(id(1)).unwrap();
    assert_eq!(answer(side), [writes_update(Flags::NONE, 1, window / 2 + grown - window)]);
    side.session.check();
    grown
}

#[test]
fn half_a_window_within_two_round_trips_doubles_it_up_to_the_largest() {
    let largest = 5 * INITIAL_WINDOW;
    let mut side = measured(Config { max_window: largest, ..Config::default() });
    for wanted in [2 * INITIAL_WINDOW, 4 * INITIAL_WINDOW, largest, largest, largest] {
        assert_eq!(half(&mut side, 99), wanted);
    }
    // What was granted may be used to the last byte.
    side.users = Users::Stall;
    assert_eq!(side.gets(&data(Flags::NONE, 1, &vec![0; largest as usize])).len(), 1);
}

#[test]
fn a_path_that_takes_longer_keeps_its_window() {
    let mut side = measured(Config::default());
    for millis in [2 * RTT, 1_000, 5_000] {
        assert_eq!(half(&mut side, millis), INITIAL_WINDOW);
    }
    assert_eq!(half(&mut side, RTT), 2 * INITIAL_WINDOW);
}

#[test]
fn a_largest_window_below_the_first_one_takes_nothing_away() {
    let mut side = measured(Config { max_window: 1, ..Config::default() });
    assert_eq!(half(&mut side, 1), INITIAL_WINDOW);
}

#[test]
fn above_half_of_the_memory_nothing_grows() {
    let mut side = measured(Config { max_queued: 3 * WINDOW / 2, ..Config::default() });
    let other = side.session.open(side.now).unwrap();
    side.writes();
    side.users = Users::Stall;
    side.gets(&data(Flags::ACK, other.get(), &vec![0; WINDOW]));
    side.users = Users::Take;
    assert_eq!(half(&mut side, 1), INITIAL_WINDOW);
    side.session.dequeued(other, WINDOW / 2 - 1, side.now);
    assert_eq!(half(&mut side, 1), 2 * INITIAL_WINDOW);
}

#[test]
fn the_round_trip_is_measured_only_where_it_matters_and_now_and_then() {
    let mut side = measured(Config::default());
    let pings = |side: &mut Side| {
        side.wait(1).unwrap();
        let window = side.session.window(id(1)).unwrap() as usize;
        side.gets(&data(Flags::NONE, 1, &vec![0; window / 2]));
        side.writes().iter().filter(|w| matches!(w, Transmit::Frame(Header { kind: Kind::Ping, .. }))).count()
    };
    assert_eq!(pings(&mut side), 0);
    side.wait(9_000).unwrap();
    assert_eq!(pings(&mut side), 0);
    side.wait(1_000).unwrap();
    assert_eq!(pings(&mut side), 1);
    // Not again while that one has no answer.
    assert_eq!(pings(&mut side), 0);
}

#[test]
fn updates_are_few() {
    let mut side = Side::relay_with(1);
    let mut updates = 0;
    for _ in 0..WINDOW / 2 {
        side.gets(&data(Flags::NONE, 1, b"x"));
        updates += answer(&mut side).len();
    }
    assert_eq!(updates, 1);
}

#[test]
fn who_has_finished_needs_no_credit() {
    let mut side = Side::relay_with(1);
    side.users = Users::Stall;
    side.gets(&data(Flags::FIN, 1, &vec![0; WINDOW]));
    side.session.dequeued(id(1), WINDOW, side.now);
    assert_eq!(side.writes(), []);
}

/// Lets a user take half of a stream's window; gives what is written, without pings, which are not answered: nothing
/// grows.
fn take_half(side: &mut Side, number: u32) -> Vec<Transmit> {
    side.gets(&data(Flags::NONE, number, &vec![0; WINDOW / 2]));
    side.writes().into_iter().filter(|w| !matches!(w, Transmit::Frame(Header { kind: Kind::Ping, .. }))).collect()
}

#[test]
fn credit_waits_while_none_may_be_renewed() {
    let mut side = Side::relay_with(2);
    side.session.set_renewal_most(0);
    assert_eq!((take_half(&mut side, 1), take_half(&mut side, 3)), (vec![], vec![]));
    assert!(side.session.has_renewals());
    // All else goes on.
    side.session.ready(id(1));
    assert_eq!(side.sends(1, 5), 5);
    side.session.set_renewal_most(u32::MAX);
    let half = |number| writes_update(Flags::NONE, number, INITIAL_WINDOW / 2);
    assert_eq!(side.writes(), [half(1), half(3)]);
    assert!(!side.session.has_renewals());
}

#[test]
fn credit_in_pieces_goes_to_all_in_turn_and_stays_due_while_half_a_window_is_missing() {
    let mut side = Side::relay_with(2);
    side.session.set_renewal_most(0);
    take_half(&mut side, 1);
    take_half(&mut side, 1);
    take_half(&mut side, 3);
    side.session.set_renewal_most(INITIAL_WINDOW / 4);
    let quarter = |number| writes_update(Flags::NONE, number, INITIAL_WINDOW / 4);
    assert_eq!(side.writes(), [quarter(1), quarter(3), quarter(1), quarter(1)]);
    side.session.check();
    assert!(!side.session.has_renewals());
    // Whoever has used what it was granted gets more as soon as a little of that was taken.
    side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 4]));
    assert_eq!(side.writes(), [quarter(1)]);
}

#[test]
fn credit_that_had_to_wait_is_not_renewed_to_a_queue_above_half_of_the_memory() {
    let mut side = Side::new(Role::Relay, Config { max_queued: WINDOW / 4, ..Config::default() });
    side.session.open(side.now).unwrap();
    side.writes();
    side.session.set_renewal_most(0);
    side.gets(&data(Flags::ACK, 1, &vec![0; WINDOW / 4]));
    assert_eq!(take_half(&mut side, 1), []);
    side.users = Users::Stall;
    side.gets(&data(Flags::NONE, 1, &vec![0; WINDOW / 4]));
    side.session.set_renewal_most(u32::MAX);
    assert_eq!(side.writes(), []);
    side.session.dequeued(id(1), WINDOW / 4, side.now);
    assert_eq!(side.writes(), [writes_update(Flags::NONE, 1, INITIAL_WINDOW)]);
}
