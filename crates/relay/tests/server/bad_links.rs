//! What a forwarder may send on its link and should not: each ends the smallest thing at fault, and a
//! neighbour never notices.

use relay::Limits;

use crate::multiplex::{ACK, DATA, FIN, Forwarder, GO_AWAY, PING, RST, SYN, Stream, WINDOW, frame};
use crate::support::{Peer, Relay, freed, user, within};

/// The most that a stream's peer may send before it is granted more.
const INITIAL_WINDOW: u32 = 256 * 1024;

/// A link with one live user, whose stream is 1.
struct Suspect {
    link: Forwarder,
    user: Peer,
    stream: Stream,
}

impl Suspect {
    async fn new(relay: &Relay) -> Self {
        let mut link = Forwarder::start(relay).await;
        let mut user = user(link.port).await;
        let mut stream = link.accept().await;
        stream.chat(&mut link, &mut user).await;
        Self { link, user, stream }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.link.link.send(bytes).await;
    }

    /// The link is whole: its user and another are served.
    async fn serves_on(mut self) {
        self.stream.chat(&mut self.link, &mut self.user).await;
        let mut another = user(self.link.port).await;
        self.link.accept().await.chat(&mut self.link, &mut another).await;
    }

    /// The relay has told why it ends the session, has reset the user and freed the port.
    async fn was_ended(mut self) {
        let told = self.link.next().await;
        assert_eq!((told.kind, told.length), (GO_AWAY, 1), "{told:?}");
        self.user.was_reset().await;
        freed(self.link.port).await;
    }

    /// The relay has reset the stream on both sides; the link is whole.
    async fn has_lost_its_user(mut self) {
        let told = self.link.next().await;
        assert_eq!((told.kind, told.flags, told.stream), (WINDOW, RST, 1), "{told:?}");
        self.user.was_reset().await;
        let mut another = user(self.link.port).await;
        self.link.accept().await.chat(&mut self.link, &mut another).await;
    }
}

/// A frame with a payload of zeros.
fn data(flags: u16, stream: u32, length: u32) -> Vec<u8> {
    [frame(DATA, flags, stream, length), vec![0; length as usize]].concat()
}

#[tokio::test]
async fn a_breach_of_the_protocol_ends_the_session() {
    let relay = Relay::start(Limits::default()).await;
    let neighbour = Suspect::new(&relay).await;
    let breaches = [
        ("data for stream 0", frame(DATA, 0, 0, 0)),
        ("credit for stream 0", frame(WINDOW, 0, 0, 1)),
        // Six bytes of the window went with the greeting.
        ("a window overdrawn by one byte", frame(DATA, 0, 1, INITIAL_WINDOW - 6 + 1)),
        ("data with a SYN, one byte over the window", frame(DATA, SYN, 2, INITIAL_WINDOW + 1)),
        ("a stream opened twice", frame(WINDOW, SYN, 1, 0)),
        ("4 GiB for an unknown stream", frame(DATA, 0, 77, u32::MAX)),
    ];
    for (what, bytes) in breaches {
        eprintln!("{what}");
        let mut suspect = Suspect::new(&relay).await;
        suspect.send(bytes).await;
        suspect.was_ended().await;
    }
    neighbour.serves_on().await;
}

#[tokio::test]
async fn a_peer_that_opens_streams_toward_the_relay_is_refused_and_then_left() {
    let relay = Relay::start(Limits::default()).await;
    let mut suspect = Suspect::new(&relay).await;
    for id in (2..34).step_by(2) {
        suspect.send(frame(WINDOW, SYN, id, 0)).await;
        let refused = suspect.link.next().await;
        assert_eq!((refused.flags, refused.stream), (RST, id));
    }
    suspect.send(frame(WINDOW, SYN, 34, 0)).await;
    suspect.was_ended().await;
}

#[tokio::test]
async fn a_breach_within_a_stream_ends_the_stream() {
    let relay = Relay::start(Limits::default()).await;
    let neighbour = Suspect::new(&relay).await;
    let breaches = [
        ("credit past 32 bits", frame(WINDOW, 0, 1, u32::MAX)),
        ("data after the end", [frame(WINDOW, FIN, 1, 0), data(0, 1, 32 * 1024)].concat()),
    ];
    for (what, bytes) in breaches {
        eprintln!("{what}");
        let mut suspect = Suspect::new(&relay).await;
        suspect.send(bytes).await;
        suspect.has_lost_its_user().await;
    }
    neighbour.serves_on().await;
}

#[tokio::test]
async fn what_is_harmless_harms_nobody() {
    let relay = Relay::start(Limits::default()).await;
    let harmless = [
        ("a second ACK", frame(WINDOW, ACK, 1, 0)),
        ("credit for an unknown stream", frame(WINDOW, 0, 99, 1000)),
        ("credit past 32 bits for an unknown stream", frame(WINDOW, 0, 99, u32::MAX)),
        ("an end and a reset of an unknown stream", [frame(DATA, FIN, 99, 0), frame(WINDOW, RST, 99, 0)].concat()),
        ("data for an unknown stream", data(0, 99, INITIAL_WINDOW)),
        ("a pong that nobody asked for", frame(PING, ACK, 0, 7)),
        ("empty data, over and over", frame(DATA, 0, 1, 0).repeat(100_000)),
        (
            "streams opened and reset in one frame",
            (0..50_000).flat_map(|n| frame(WINDOW, SYN | RST, 2 * n + 2, 0)).collect(),
        ),
    ];
    for (what, bytes) in harmless {
        eprintln!("{what}");
        let mut suspect = Suspect::new(&relay).await;
        suspect.send(bytes).await;
        suspect.serves_on().await;
    }
}

#[tokio::test]
async fn a_second_end_changes_nothing() {
    let relay = Relay::start(Limits::default()).await;
    let mut suspect = Suspect::new(&relay).await;
    suspect.send(frame(WINDOW, FIN, 1, 0).repeat(2)).await;
    suspect.user.eof().await;
    suspect.user.send("still open this way").await;
    suspect.stream.expect(&mut suspect.link, "still open this way").await;
}

#[tokio::test]
async fn data_for_a_stream_just_reset_is_discarded() {
    let relay = Relay::start(Limits::default()).await;
    let Suspect { mut link, user: first, .. } = Suspect::new(&relay).await;
    first.abort();
    assert_eq!(link.next().await.flags, RST);
    link.link.send(data(0, 1, INITIAL_WINDOW)).await;
    let mut another = user(link.port).await;
    link.accept().await.chat(&mut link, &mut another).await;
    // Nobody could have had more on its way.
    link.send(DATA, 0, 1, 1).await;
    assert_eq!(link.next().await.kind, GO_AWAY);
    another.was_reset().await;
}

/// The peer asks and never reads the answers: 16 of them wait, once the kernel holds no more.
#[tokio::test]
async fn pings_whose_pongs_are_never_read_cost_nothing() {
    let relay = Relay::start(Limits::default()).await;
    let neighbour = Suspect::new(&relay).await;
    let mut suspect = Suspect::new(&relay).await;
    let pings = frame(PING, SYN, 0, 1).repeat(10_000);
    for _ in 0..100 {
        suspect.send(&pings).await;
    }
    neighbour.serves_on().await;
    // Reading at last, the peer finds the link alive.
    within("the link is alive", async {
        suspect.user.send("hello").await;
        while suspect.link.next().await.kind != DATA {}
    })
    .await;
}
