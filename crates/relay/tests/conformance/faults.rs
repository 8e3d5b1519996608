//! A broken relay for each check: a kit that cannot fail proves nothing.

use std::collections::BTreeSet;

use relay::conformance::relay::{CHECKS, Relay};
use relay::conformance::session::Frame;
use relay::conformance::{self, Check, Outcome};
use relay_proto::yamux::{Flags, Header, Kind};
use tokio::task::JoinSet;

use crate::middle::{Fault, Memory, Middle, NONE, Piece, Purpose, Way};
use crate::rig::{Own, OwnCertificate};

type Pieces = fn(&mut Memory, Way, Piece) -> Vec<Piece>;
type Chunks = fn(&mut Memory, Way, Vec<u8>) -> Vec<u8>;

/// Which relay has the fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kin {
    Open,
    /// With identities, over TLS only.
    Closed,
    /// With identities, in plain text too.
    Plain,
}

/// A relay that breaks what the check of that name looks at.
type Broken = (&'static str, Kin, Fault);

fn open(check: &'static str, piece: Pieces) -> Broken {
    (check, Kin::Open, Fault { piece, ..NONE })
}

fn closed(check: &'static str, piece: Pieces) -> Broken {
    (check, Kin::Closed, Fault { piece, ..NONE })
}

fn chunked(check: &'static str, chunk: Chunks) -> Broken {
    (check, Kin::Open, Fault { chunk, ..NONE })
}

fn faults() -> Vec<Broken> {
    [exchange(), users(), dial_backs(), yamux(), extensions(), identities()].concat()
}

fn exchange() -> Vec<Broken> {
    vec![
        open("multiplex, as written", |memory, way, piece| greets(memory, way, piece, Purpose::Multiplex)),
        open("pool, as written", |memory, way, piece| greets(memory, way, piece, Purpose::PoolNew)),
        open("event, as written", |memory, way, piece| greets(memory, way, piece, Purpose::EventNew)),
        chunked("lines: blanks and \\r\\n", |memory, way, bytes| {
            close_if(memory, way, bytes, |bytes| bytes.contains(&b'\r'))
        }),
        chunked("lines: cut at each byte", |memory, way, bytes| {
            let first = memory.said.is_empty();
            if first { close_if(memory, way, bytes, |bytes| !bytes.contains(&b'\n')) } else { bytes }
        }),
        chunked("lines: bytes behind them", |memory, way, mut bytes| {
            let first = way == Way::ToRelay && memory.said.is_empty();
            if let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n').filter(|_| first) {
                bytes.truncate(end + 1);
            }
            bytes
        }),
        open("lines: wrong ones are closed", |memory, way, piece| match &piece {
            Piece::Line(line) if way == Way::ToRelay && line == "bogus" => memory.hang(),
            _ => vec![piece],
        }),
        open("lines: one without end is closed", |memory, way, piece| match &piece {
            Piece::Bytes(_) if way == Way::ToRelay && memory.purpose == Purpose::Unknown => memory.hang(),
            _ => vec![piece],
        }),
        open("silence is closed", |memory, way, piece| match piece {
            Piece::Finish | Piece::Reset if way == Way::ToClient && memory.said.is_empty() => memory.hang(),
            _ => vec![piece],
        }),
        open("connect and close", |memory, way, piece| match piece {
            // The kit itself begins with one.
            Piece::Finish if way == Way::ToRelay && memory.said.is_empty() => {
                if memory.all.words.lock().unwrap().insert("a scan".into()) { vec![piece] } else { memory.die() }
            }
            _ => vec![piece],
        }),
    ]
}

fn users() -> Vec<Broken> {
    vec![
        open("the user ends first", |_, way, piece| without(way, piece, Way::ToClient, Flags::FIN)),
        open("the service ends first", |_, way, piece| without(way, piece, Way::ToRelay, Flags::FIN)),
        open("the user resets", |_, way, piece| finish_for_reset(way, piece, Way::ToClient)),
        open("the client resets", |_, way, piece| finish_for_reset(way, piece, Way::ToRelay)),
        open("a lost link resets its users", |memory, way, piece| match piece {
            Piece::Finish | Piece::Reset if way == Way::ToRelay && memory.purpose == Purpose::Multiplex => {
                vec![bare(Kind::WindowUpdate, Flags::FIN, 1, 0)]
            }
            _ => vec![piece],
        }),
        open("a MiB each way, intact", |_, way, piece| match piece {
            Piece::Frame(mut frame) if way == Way::ToClient && frame.body.len() > 100 => {
                frame.body[50] ^= 1;
                vec![Piece::Frame(frame)]
            }
            _ => vec![piece],
        }),
        open("the service speaks first", |memory, way, piece| match &piece {
            Piece::Frame(frame) if way == Way::ToClient && frame.has(Flags::SYN) && frame.header.stream > 0 => {
                memory.held = Some(piece);
                Vec::new()
            }
            Piece::Frame(frame) if way == Way::ToClient && frame.header.kind == Kind::Data => {
                memory.held.take().into_iter().chain([piece]).collect()
            }
            _ => vec![piece],
        }),
        open("many users at once", |_, way, piece| match &piece {
            Piece::Frame(frame) if way == Way::ToClient && frame.header.stream > 100 => Vec::new(),
            _ => vec![piece],
        }),
        open("a port is freed with its client", |memory, way, piece| {
            outlives(memory, way, piece, &[Purpose::Multiplex, Purpose::EventNew])
        }),
    ]
}

fn dial_backs() -> Vec<Broken> {
    vec![
        open("event: a ticket is good once", |memory, way, piece| match &piece {
            Piece::Line(id) if way == Way::ToRelay && memory.purpose == Purpose::DialBack => {
                if memory.all.words.lock().unwrap().insert(id.clone()) { vec![piece] } else { memory.hang() }
            }
            _ => vec![piece],
        }),
        open("event: unknown tickets are closed", unknown_hangs),
        open("pool: unknown pools are closed", unknown_hangs),
        open("event: claimed users live on", |memory, way, piece| match piece {
            Piece::Finish if way == Way::ToRelay && memory.purpose == Purpose::EventNew => memory.die(),
            _ => vec![piece],
        }),
        open("event: waiting users end", |memory, way, piece| outlives(memory, way, piece, &[Purpose::EventNew])),
        open("pool: a member is one user's", |memory, way, piece| match piece {
            Piece::Finish if way == Way::ToClient && memory.purpose == Purpose::PoolNew => memory.hang(),
            _ => vec![piece],
        }),
        open("pool: a dead member gets nobody", |memory, way, piece| {
            outlives(memory, way, piece, &[Purpose::PoolNew, Purpose::DialBack])
        }),
        open("pool: ends when told", |_, way, piece| match piece {
            // The name of no pool: nothing ends.
            Piece::Line(line) if way == Way::ToRelay => vec![Piece::Line(line.replace("end ", "end 0"))],
            piece => vec![piece],
        }),
    ]
}

fn yamux() -> Vec<Broken> {
    vec![
        open("yamux: ids are odd and grow", |_, way, piece| match piece {
            Piece::Frame(mut frame) if frame.header.stream > 0 => {
                let id = frame.header.stream;
                frame.header.stream = if way == Way::ToClient { id + 1 } else { id - 1 };
                vec![Piece::Frame(frame)]
            }
            _ => vec![piece],
        }),
        open("yamux: the window is kept", |_, way, piece| match &piece {
            Piece::Frame(frame) if way == Way::ToRelay && frame.has(Flags::ACK) => {
                let more = bare(Kind::WindowUpdate, Flags::NONE, frame.header.stream, 1);
                vec![piece, more]
            }
            _ => vec![piece],
        }),
        open("yamux: pings are answered", |_, way, piece| match piece {
            Piece::Frame(mut frame) if way == Way::ToClient && frame.header.kind == Kind::Ping => {
                frame.header.length ^= 1;
                vec![Piece::Frame(frame)]
            }
            _ => vec![piece],
        }),
        open("yamux: a user who does not read", |memory, way, piece| match &piece {
            Piece::Frame(frame) if way == Way::ToRelay => {
                memory.count += frame.body.len();
                if memory.count < 200_000 { vec![piece] } else { Vec::new() }
            }
            _ => vec![piece],
        }),
        open("yamux: unknown streams", |memory, way, piece| match &piece {
            Piece::Frame(frame) if way == Way::ToRelay && frame.header.stream == 77 => memory.close(),
            _ => vec![piece],
        }),
        open("yamux: a second ACK or FIN", |memory, way, piece| match &piece {
            Piece::Frame(frame) if way == Way::ToRelay && frame.has(Flags::FIN) => {
                memory.count += 1;
                if memory.count > 1 { memory.close() } else { vec![piece] }
            }
            _ => vec![piece],
        }),
        open("yamux: GoAway 0", |_, _, piece| match &piece {
            Piece::Frame(frame) if frame.header.kind == Kind::GoAway => Vec::new(),
            _ => vec![piece],
        }),
        open("yamux: a breach ends one session", |memory, way, piece| match piece {
            Piece::Bytes(_) if way == Way::ToRelay && memory.purpose == Purpose::Multiplex => Vec::new(),
            _ => vec![piece],
        }),
        open("yamux: a stream from the client", |_, way, piece| match &piece {
            Piece::Frame(frame) if frame.header.kind == Kind::WindowUpdate => {
                without(way, piece, Way::ToRelay, Flags::SYN)
            }
            _ => vec![piece],
        }),
        chunked("yamux: frames cut at each byte", |memory, way, bytes| {
            let frames = memory.purpose == Purpose::Multiplex;
            if frames { close_if(memory, way, bytes, |bytes| bytes.len() < 12) } else { bytes }
        }),
        open("flood of pings", |memory, way, piece| flooded(memory, way, piece, Kind::Ping)),
        open("flood of streams", |memory, way, piece| flooded(memory, way, piece, Kind::WindowUpdate)),
    ]
}

fn extensions() -> Vec<Broken> {
    vec![
        chunked("relay/1: the greeting", |memory, way, bytes| {
            close_if(memory, way, bytes, |bytes| bytes.contains(&b'\t'))
        }),
        open("relay/1: unsupported, as written", |_, _, piece| {
            instead(piece, "error unsupported", "error bad-request")
        }),
        open("relay/1: errors have codes", |_, _, piece| instead(piece, "error bad-request", "error denied")),
        open("port: pool, as written", |_, _, piece| without_option(piece, " port=")),
        open("port: taken, and not allowed", |_, _, piece| instead(piece, "error port-taken", "error busy")),
        closed("port: forbidden, as written", |_, _, piece| instead(piece, "error port-not-allowed", "error no-port")),
        open("wish", |_, _, piece| without_option(piece, " wish=")),
        closed("service", |_, _, piece| without_option(piece, " service=")),
        open("allow", |_, _, piece| without_option(piece, " allow=")),
        open("proxy: multiplex", |_, _, piece| without_option(piece, " proxy=")),
        open("proxy: pool", |_, _, piece| without_option(piece, " proxy=")),
        open("proxy: event", |_, _, piece| without_option(piece, " proxy=")),
    ]
}

fn identities() -> Vec<Broken> {
    vec![
        closed("identity: multiplex, as written", |_, _, piece| instead(piece, "ok", "OK")),
        closed("identity: event, as written", |_, _, piece| instead(piece, "ok", "OK")),
        ("identity: sealed, as written", Kin::Plain, Fault { piece: |_, _, piece| instead(piece, "ok", "OK"), ..NONE }),
        closed("identity: strangers, as written", |_, _, piece| {
            instead(piece, "error identity-required", "error denied")
        }),
        closed("identity: wrong proof, as written", |_, _, piece| instead(piece, "error denied", "error revoked")),
        closed("identity: unknown names", |memory, _, piece| {
            if memory.said.contains("nobody") {
                instead(piece, "error denied", "error denied: nobody")
            } else {
                vec![piece]
            }
        }),
        closed("identity: a nonce is used once", |memory, way, piece| match piece {
            Piece::Line(line) if way == Way::ToClient && line.len() == 43 => {
                vec![Piece::Line(memory.all.notes.lock().unwrap().entry("nonce").or_insert(line).clone())]
            }
            _ => vec![piece],
        }),
        (
            "identity: request behind the proof",
            Kin::Closed,
            Fault {
                chunk: |memory, way, mut bytes| {
                    let proof = way == Way::ToRelay && memory.said.contains("auth") && bytes.len() > 44;
                    bytes.truncate(if proof { 44 } else { bytes.len() });
                    bytes
                },
                ..NONE
            },
        ),
        ("tls: its ids in plain text", Kin::Closed, Fault { launders: true, ..NONE }),
        closed("tls: plain text is refused", |memory, _, piece| {
            instead(piece, "error tls-required", if memory.said.len() > 10 { "" } else { "error late" })
        }),
    ]
}

/// A word ahead of the first answer.
fn greets(memory: &mut Memory, way: Way, piece: Piece, purpose: Purpose) -> Vec<Piece> {
    let first = way == Way::ToClient && memory.purpose == purpose && memory.count == 0;
    memory.count += usize::from(first);
    if first { vec![Piece::Line("welcome".into()), piece] } else { vec![piece] }
}

fn close_if(memory: &mut Memory, way: Way, bytes: Vec<u8>, wrong: fn(&[u8]) -> bool) -> Vec<u8> {
    if way == Way::ToRelay && wrong(&bytes) {
        memory.close();
    }
    bytes
}

/// Without the frames that have this flag.
fn without(way: Way, piece: Piece, where_to: Way, flag: Flags) -> Vec<Piece> {
    let has = matches!(&piece, Piece::Frame(frame) if frame.has(flag));
    if has && way == where_to { Vec::new() } else { vec![piece] }
}

/// An abort is passed on as a clean end.
fn finish_for_reset(way: Way, piece: Piece, where_to: Way) -> Vec<Piece> {
    match piece {
        Piece::Frame(frame) if way == where_to && frame.has(Flags::RST) => {
            vec![bare(Kind::WindowUpdate, Flags::FIN, frame.header.stream, 0)]
        }
        _ => vec![piece],
    }
}

/// The relay does not notice that such a client is gone.
fn outlives(memory: &mut Memory, way: Way, piece: Piece, purposes: &[Purpose]) -> Vec<Piece> {
    match piece {
        Piece::Finish | Piece::Reset if way == Way::ToRelay && purposes.contains(&memory.purpose) => memory.hang(),
        _ => vec![piece],
    }
}

/// An id that nobody has is not refused.
fn unknown_hangs(memory: &mut Memory, way: Way, piece: Piece) -> Vec<Piece> {
    match &piece {
        Piece::Line(id) if way == Way::ToRelay && id.starts_with("0123456789") => memory.hang(),
        _ => vec![piece],
    }
}

/// Many frames of a kind end the whole relay.
fn flooded(memory: &mut Memory, way: Way, piece: Piece, kind: Kind) -> Vec<Piece> {
    let counts = matches!(&piece, Piece::Frame(frame) if frame.header.kind == kind && frame.has(Flags::SYN));
    memory.count += usize::from(counts && way == Way::ToRelay);
    if memory.count > 1000 { memory.die() } else { vec![piece] }
}

/// Another beginning for lines that begin so.
fn instead(piece: Piece, wanted: &str, other: &str) -> Vec<Piece> {
    match &piece {
        Piece::Line(line) if line.starts_with(wanted) => vec![Piece::Line(line.replacen(wanted, other, 1))],
        _ => vec![piece],
    }
}

/// A request without its options of that kind.
fn without_option(piece: Piece, option: &str) -> Vec<Piece> {
    match piece {
        Piece::Line(line) => vec![Piece::Line(line.split(option).next().unwrap_or_default().into())],
        _ => vec![piece],
    }
}

fn bare(kind: Kind, flags: Flags, stream: u32, length: u32) -> Piece {
    Piece::Frame(Frame { header: Header { kind, flags, stream, length }, body: Vec::new() })
}

/// What the kit makes of a relay with that fault, by the checks that are asked for.
async fn tried(kin: Kin, fault: Fault, checks: &'static [Check<Relay>]) -> Vec<(&'static str, Outcome)> {
    let certificate = OwnCertificate::new();
    let own = match kin {
        Kin::Open => Own::open().await,
        Kin::Closed | Kin::Plain => Own::closed(&certificate, kin == Kin::Plain).await,
    };
    let secure = (kin != Kin::Open).then_some(&certificate);
    let middle = Middle::start(own.control, secure, fault).await;
    let target = if kin == Kin::Open { middle.control.to_string() } else { certificate.invite(middle.control) };
    let relay = Relay::meet(&target.parse().unwrap()).await.unwrap();
    let report = conformance::run(&relay, checks, |_| Ok(())).await.unwrap();
    report.rows.into_iter().map(|row| (row.name, row.outcome)).collect()
}

#[test]
fn each_check_has_its_fault() {
    let faults: BTreeSet<&str> = faults().into_iter().map(|(name, ..)| name).collect();
    let checks: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(faults, checks);
    assert_eq!(checks.len(), CHECKS.len(), "two checks of one name");
}

#[tokio::test]
async fn a_man_in_the_middle_who_breaks_nothing_is_not_noticed() {
    for kin in [Kin::Open, Kin::Closed] {
        for (name, outcome) in tried(kin, NONE, CHECKS).await {
            assert!(!matches!(outcome, Outcome::Fails(_)), "{name}: {outcome:?}");
        }
    }
}

/// How many relays are tried at the same time: most of them only wait for something that does not come.
const AT_ONCE: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_is_found() {
    let mut trials = JoinSet::new();
    let mut blind = Vec::new();
    let mut note = |(name, outcome): (&str, Outcome)| {
        println!("{name}: {outcome:?}");
        if !matches!(outcome, Outcome::Fails(_)) {
            blind.push(name.to_owned());
        }
    };
    for (name, kin, fault) in faults() {
        if trials.len() == AT_ONCE {
            note(trials.join_next().await.unwrap().unwrap());
        }
        trials.spawn(async move {
            let at = CHECKS.iter().position(|check| check.name == name).unwrap();
            tried(kin, fault, &CHECKS[at..=at]).await.remove(0)
        });
    }
    while let Some(trial) = trials.join_next().await {
        note(trial.unwrap());
    }
    assert!(blind.is_empty(), "not found: {blind:?}");
}
