//! What a client has to bear of yamux.

use relay_proto::yamux::{Flags, INITIAL_WINDOW, Kind};
use tokio::time::sleep;

use super::link::{Link, frame, header};
use super::subject::Client;
use super::tunnel::Tunnel;
use super::user::{User, pattern};
use crate::conformance::peer::{End, QUIET};
use crate::conformance::{Check, Verdict, check};

/// What a flood of frames is: more than any backlog has room for, or one read brings.
const FRAMES: u32 = 16 * 1024;

/// What a flood of users is: more than any table of streams has room for. Behind some clients each is a connection to
/// the service.
const USERS: u32 = 4096;

pub(super) const CHECKS: &[Check<Client>] = &[
    check!("one ACK for each stream", "6. Yamux", "A relay lets no more than 256 users wait for it.", one_ack),
    check!("frames in single bytes", "6. Yamux", "A network may cut them anywhere.", frames_in_bytes),
    check!("many frames in one segment", "6. Yamux", "A busy link has users behind each other.", frames_together),
    check!("no more than was granted", "6. Yamux", "Relays end the session of whoever sends more.", window_kept),
    check!("pings under load", "6. Yamux", "Without an answer in 10 s old relays give the link up.", pings),
    check!("GoAway 0", "6. Yamux", "A relay that stops lets its users finish.", go_away),
    check!("frames of streams that are not open", "6. Yamux", "They cross with the end of a stream.", unknown_streams),
    check!("a second FIN", "6. Yamux", "A fault in one user's stream would cost all of them.", second_fin),
    check!("data behind a FIN", "6. Yamux", "The relay of 2017 sends it now and then.", data_behind_fin),
    check!("stream ids that wrap", "6. Yamux", "The link would end with its two billionth user.", ids_wrap),
    check!("a flood of pings", "6. Yamux", "It would cost memory, or the link.", flood_of_pings),
    check!("a flood of users who leave at once", "6. Yamux", "A port scan does it.", flood_of_streams),
    check!("a flood of empty frames", "6. Yamux", "They are within every window.", flood_of_empty_frames),
];

async fn one_ack(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    for _ in 0..20 {
        let User::Stream(stream) = tunnel.user().await? else { continue };
        let user = User::Stream(stream.clone());
        user.is_served("hello").await?;
        stream.until("an ACK", |stream| (stream.acks > 0).then_some(())).await?;
        // Another one would come no later than what is said next.
        user.is_served("again").await?;
        let acks = stream.until("an ACK", |stream| Some(stream.acks)).await?;
        if acks != 1 {
            return Err(format!("{acks} ACKs for one stream").into());
        }
    }
    Ok(())
}

async fn frames_in_bytes(client: &Client) -> Verdict {
    let tunnel = client.tunnel().await?;
    let link = tunnel.link()?;
    let stream = link.next_stream();
    let said = format!("{}hello", tunnel.address());
    let ping = header(Kind::Ping, Flags::SYN, 0, 7);
    let frames = [stream.control(Flags::SYN, 0), stream.data(said.as_bytes()), ping, stream.control(Flags::FIN, 0)];
    link.raw_sliced(frames.concat());
    let user = User::Stream(stream);
    user.expect(b"hello").await?;
    user.ends(End::Clean).await
}

async fn frames_together(client: &Client) -> Verdict {
    let tunnel = client.tunnel().await?;
    let link = tunnel.link()?;
    let streams: Vec<_> = (0..10).map(|_| link.next_stream()).collect();
    let bytes = pattern(1, 100);
    let said = [tunnel.address().as_bytes(), &bytes].concat();
    let mut frames: Vec<u8> = streams.iter().flat_map(|stream| stream.control(Flags::SYN, 0)).collect();
    frames.extend(streams.iter().flat_map(|stream| stream.data(&said)));
    link.raw(frames);
    for stream in streams {
        User::Stream(stream).expect(&bytes).await?;
    }
    Ok(())
}

async fn window_kept(client: &Client) -> Verdict {
    const A_LITTLE: u32 = 1000;
    let mut tunnel = client.tunnel().await?;
    let bytes = pattern(1, 4 * INITIAL_WINDOW as usize);
    let User::Stream(stream) = tunnel.user().await? else { return Ok(()) };
    stream.renew(false);
    let user = User::Stream(stream.clone());
    let reads = async {
        for granted in [INITIAL_WINDOW, INITIAL_WINDOW + A_LITTLE] {
            let all = |came: usize| (came == granted as usize).then_some(());
            stream.until("all that was granted", |stream| all(stream.came.len())).await?;
            // Whatever comes beyond it ends the link.
            sleep(QUIET).await;
            stream.grant(A_LITTLE);
        }
        stream.renew(true);
        user.expect(&bytes).await
    };
    tokio::try_join!(stream.send(&bytes), reads).map(|_| ())
}

async fn pings(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let user = tunnel.user().await?;
    let link = tunnel.link()?;
    let bytes = pattern(1, 4 * INITIAL_WINDOW as usize);
    let answered = async {
        for value in [0, 1, 0xDEAD_BEEF, u32::MAX] {
            link.raw(header(Kind::Ping, Flags::SYN, 0, value));
            pong(link, value).await?;
        }
        Ok(())
    };
    tokio::try_join!(user.echo(&bytes), answered).map(|_| ())
}

async fn pong(link: &Link, value: u32) -> Verdict {
    link.until("the answer to a ping", |state| state.pongs.contains(&value).then_some(())).await
}

async fn go_away(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let User::Stream(stream) = tunnel.user().await? else { return Ok(()) };
    let user = User::Stream(stream.clone());
    user.is_served("one").await?;
    tunnel.link()?.raw([header(Kind::GoAway, Flags::NONE, 0, 0), stream.data(b"two")].concat());
    user.expect(b"two").await?;
    user.is_served("three").await
}

async fn unknown_streams(client: &Client) -> Verdict {
    /// Never opened.
    const STREAM: u32 = 0x4000_0001;
    let mut tunnel = client.tunnel().await?;
    let user = tunnel.user().await?;
    user.is_served("one").await?;
    let link = tunnel.link()?;
    // Whoever takes the payload for frames has frames of a wrong version.
    link.raw(frame(Flags::NONE, STREAM, &[0xFF; 1000]));
    for flags in [Flags::NONE, Flags::ACK, Flags::FIN, Flags::RST] {
        link.raw(header(Kind::WindowUpdate, flags, STREAM, 1000));
    }
    serves_on(&mut tunnel, &user).await
}

async fn second_fin(client: &Client) -> Verdict {
    behind_fin(client, |stream| stream.control(Flags::FIN, 0)).await
}

async fn data_behind_fin(client: &Client) -> Verdict {
    behind_fin(client, |stream| stream.data(b"more")).await
}

/// What comes behind the end of one user costs no other.
async fn behind_fin(client: &Client, what: impl FnOnce(&super::link::Stream) -> Vec<u8>) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let user = tunnel.user().await?;
    user.is_served("one").await?;
    let address = tunnel.address();
    let link = tunnel.link()?;
    let stream = link.next_stream();
    let first = [stream.control(Flags::SYN, 0), stream.data(format!("{address}hello").as_bytes())].concat();
    link.raw([first, stream.control(Flags::FIN, 0), what(&stream)].concat());
    serves_on(&mut tunnel, &user).await
}

async fn ids_wrap(client: &Client) -> Verdict {
    let tunnel = client.tunnel().await?;
    let link = tunnel.link()?;
    for id in [u32::MAX - 2, u32::MAX, 1] {
        let stream = link.stream_of(id);
        let said = format!("{}hello", tunnel.address());
        link.raw([stream.control(Flags::SYN, 0), stream.data(said.as_bytes())].concat());
        User::Stream(stream).expect(b"hello").await?;
    }
    Ok(())
}

async fn flood_of_pings(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let user = tunnel.user().await?;
    user.is_served("one").await?;
    let link = tunnel.link()?;
    link.raw((0..FRAMES).flat_map(|value| header(Kind::Ping, Flags::SYN, 0, value)).collect::<Vec<u8>>());
    serves_on(&mut tunnel, &user).await
}

async fn flood_of_streams(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let user = tunnel.user().await?;
    user.is_served("one").await?;
    let link = tunnel.link()?;
    let scan = |_| {
        let stream = link.next_stream();
        [stream.control(Flags::SYN, 0), stream.control(Flags::RST, 0)].concat()
    };
    link.raw((0..USERS).flat_map(scan).collect::<Vec<u8>>());
    serves_on(&mut tunnel, &user).await
}

async fn flood_of_empty_frames(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let User::Stream(stream) = tunnel.user().await? else { return Ok(()) };
    let user = User::Stream(stream.clone());
    user.is_served("one").await?;
    let empty = frame(Flags::NONE, stream.id, b"");
    tunnel.link()?.raw(empty.repeat(FRAMES as usize));
    serves_on(&mut tunnel, &user).await
}

/// A user who was there is served on, and so is the next.
async fn serves_on(tunnel: &mut Tunnel<'_>, user: &User) -> Verdict {
    user.is_served("two").await?;
    tunnel.user().await?.is_served("three").await.map_err(|seen| seen.at("the next user"))
}
