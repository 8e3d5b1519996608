//! What users need, however they come.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::service::{GREETING, Manner};
use super::subject::{Client, PROXY, SERVICE, SPEAKS_FIRST};
use super::user::pattern;
use crate::conformance::peer::{End, QUIET};
use crate::conformance::{Check, Seen, Verdict, check};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// How many users come at once.
const MANY: u32 = 200;

/// What a user sends who does not read: more than the kernels and windows on the way to an echo and back can hold.
const MORE_THAN_FITS: usize = 24 * MIB;

pub(super) const CHECKS: &[Check<Client>] = &[
    check!("a MiB each way at once", "5. Ends and failures", "Bytes that are lost or doubled ruin a file.", mebibyte),
    check!("half-close", "5. Ends and failures", "A request that ends in end-of-file has no reply.", half_close),
    check!("200 users at once", "5. Ends and failures", "A page of a web site is dozens of connections.", many),
    check!(
        "a user who does not read",
        "5. Ends and failures",
        "Anybody could bring the service to a halt for all others.",
        slow_user
    ),
    check!("a user who aborts", "5. Ends and failures", "Users do, and the others must not notice.", user_aborts),
    check!(
        "a user's abort reaches the service",
        "5. Ends and failures",
        "Half an upload would look like a whole one.",
        abort_reaches_service,
        needs SERVICE
    ),
    check!(
        "the service's abort reaches the user",
        "5. Ends and failures",
        "Half a download would look like a whole one.",
        abort_reaches_user,
        needs SERVICE
    ),
    check!(
        "a service that speaks first",
        "2. Multiplex",
        "SSH, SMTP and MySQL would wait for ever, as their users do.",
        service_speaks_first,
        needs SPEAKS_FIRST
    ),
    check!(
        "the user's address",
        "7. Beyond the original: `relay/1`",
        "The line that tells it is no part of what the user sent.",
        user_address,
        needs PROXY
    ),
];

async fn mebibyte(client: &Client) -> Verdict {
    client.tunnel().await?.user().await?.echo(&pattern(1, MIB)).await
}

async fn half_close(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let user = tunnel.user().await?;
    let bytes = pattern(2, 100 * KIB);
    let sends = async {
        user.send(&bytes).await?;
        user.finish();
        Ok(())
    };
    tokio::try_join!(sends, user.expect(&bytes))?;
    user.ends(End::Clean).await
}

async fn many(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let nth = |seed| move |seen: Seen| seen.at(format_args!("user {}", seed + 1));
    let mut users = Vec::new();
    for seed in 0..MANY {
        let user = tunnel.user().await.map_err(nth(seed))?;
        user.echo(&pattern(seed, 100)).await.map_err(nth(seed))?;
        users.push(user);
    }
    let mut all = JoinSet::new();
    for (seed, user) in (0..).zip(users) {
        all.spawn(async move {
            let bytes = pattern(MANY + seed, 4 * KIB);
            user.echo(&bytes).await.map_err(nth(seed))?;
            user.finish();
            user.ends(End::Clean).await.map_err(nth(seed))
        });
    }
    while let Some(served) = all.join_next().await {
        served.map_err(|error| error.to_string())??;
    }
    Ok(())
}

async fn slow_user(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let slow = tunnel.user().await?;
    let bytes = pattern(3, MORE_THAN_FITS);
    let sent = AtomicUsize::new(0);
    let sends = async {
        for piece in bytes.chunks(64 * KIB) {
            slow.send(piece).await?;
            sent.fetch_add(piece.len(), Ordering::Relaxed);
        }
        Verdict::Ok(())
    };
    let meanwhile = async {
        // Until whatever is on the way has filled.
        let mut before = usize::MAX;
        while before != sent.load(Ordering::Relaxed) {
            before = sent.load(Ordering::Relaxed);
            sleep(QUIET).await;
        }
        for seed in 4..14 {
            let others = async { tunnel.user().await?.echo(&pattern(seed, 10 * KIB)).await };
            others.await.map_err(|seen: Seen| seen.at("another user"))?;
        }
        slow.expect(&bytes).await.map_err(|seen| seen.at("when the user reads again"))
    };
    let (sent, served) = tokio::join!(sends, meanwhile);
    served.and(sent)
}

async fn user_aborts(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let stays = tunnel.user().await?;
    stays.is_served("one").await?;
    for seed in 0..3 {
        let aborts = tunnel.user().await?;
        aborts.echo(&pattern(seed, KIB)).await?;
        aborts.send(&pattern(seed, 100 * KIB)).await?;
        aborts.abort();
    }
    stays.is_served("two").await.map_err(|seen| seen.at("another user"))?;
    tunnel.user().await?.is_served("three").await.map_err(|seen| seen.at("the next user"))
}

async fn abort_reaches_service(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let before = client.service.behave(Manner::Echoes);
    let user = tunnel.user().await?;
    user.is_served("hello").await?;
    user.abort();
    match client.service.user_left(before).await? {
        End::Reset => Ok(()),
        End::Clean => Err("the service saw a clean end".into()),
    }
}

async fn abort_reaches_user(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    client.service.behave(Manner::Aborts);
    let user = tunnel.user().await?;
    user.send(b"hello").await?;
    user.ends(End::Reset).await
}

async fn service_speaks_first(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    client.service.behave(Manner::Greets);
    let user = tunnel.user().await?;
    user.expect(GREETING.as_bytes()).await?;
    user.is_served("the soup").await
}

async fn user_address(client: &Client) -> Verdict {
    const LINES: [&str; 3] = [
        "PROXY UNKNOWN\r\n",
        "PROXY TCP4 203.0.113.7 198.51.100.1 40112 1235\r\n",
        "PROXY TCP6 2001:db8::7 2001:db8::1 40112 1235\r\n",
    ];
    let mut tunnel = client.tunnel().await?;
    for line in LINES {
        let at = |seen: Seen| seen.at(format_args!("{line:?}"));
        tunnel.user_from(line).await?.is_served("hello").await.map_err(at)?;
        let user = tunnel.user_from("").await?;
        user.send_sliced(line.as_bytes()).await?;
        user.is_served("hello").await.map_err(|seen| at(seen).at("in single bytes"))?;
        let user = tunnel.user_from("").await?;
        user.send(format!("{line}hello").as_bytes()).await?;
        user.expect(b"hello").await.map_err(|seen| at(seen).at("with more behind it"))?;
    }
    Ok(())
}
