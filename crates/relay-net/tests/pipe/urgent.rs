//! TCP's urgent data. It is dropped, but the bytes around it are not.

use crate::rig::{MANNERS, Setup, end, pattern, read_all, soon};
use relay_net::pipe::End;
use socket2::SockRef;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Splicing stops at the urgent mark as if nothing was there, and nothing more comes that would wake anybody.
#[tokio::test]
async fn what_follows_an_urgent_mark_amid_bulk_arrives() {
    const LENGTH: usize = 300_000;
    for manner in MANNERS {
        for at_once in [false, true] {
            let mut rig = Setup { manner, ..Setup::default() }.start().await;
            let (before, after) = (pattern(1, 0, LENGTH), pattern(2, 0, LENGTH));
            let mut got = vec![0; 2 * LENGTH];
            let send = async {
                rig.user.write_all(&before).await.unwrap();
                if !at_once {
                    // The mark is then the first that a turn of the pipe meets.
                    while rig.moved.up.load(Ordering::Relaxed) < LENGTH as u64 {
                        tokio::task::yield_now().await;
                    }
                }
                SockRef::from(&rig.user).send_out_of_band(b"!").unwrap();
                rig.user.write_all(&after).await.unwrap();
            };
            soon(async { tokio::join!(send, async { rig.service.read_exact(&mut got).await.unwrap() }) }).await;
            assert!(got == [before, after].concat(), "{manner:?}");
            rig.user.shutdown().await.unwrap();
            rig.service.shutdown().await.unwrap();
            assert_eq!(read_all(&mut rig.service).await.0, b"");
            assert_eq!(end(rig.pipe).await, End::Done);
        }
    }
}
