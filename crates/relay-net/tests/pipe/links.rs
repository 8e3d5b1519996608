//! The same parties over a multiplexed link, many at once: what they see is what a pipe of their own would show.

use crate::model::{Last, Plan, RATE, check, plan, play};
use crate::rig::{sockets, soon};
use proptest::prelude::*;
use relay_net::mux::{Config, Link, Role, Side};
use relay_net::pipe::{End, HALF_CLOSED_IDLE, Moved};
use std::sync::atomic::Ordering;

/// Users with their services, all over one link. `buffers` are the kernel's, of the link and of the parties; `secure`
/// says where TLS is spoken: on the link, with the users, with the services; `limited` whether the relay keeps to a rate.
async fn run(parties: Vec<(Plan, Plan)>, buffers: [usize; 2], secure: [bool; 3], limited: bool) {
    let (near, far) = sockets(buffers[0], secure[0]).await;
    let relay =
        Link::start(Role::Relay, near, Vec::new(), Config { rate: limited.then(|| RATE.clone()), ..Config::default() });
    let forwarder = Link::start(Role::Forwarder, far, Vec::new(), Config::default());
    let mut running = Vec::new();
    for (user, service) in parties {
        let (far_user, near_user) = sockets(buffers[1], secure[1]).await;
        let (far_service, near_service) = sockets(buffers[1], secure[2]).await;
        let outward = relay.open().await.unwrap();
        let inward = soon(forwarder.accept()).await.unwrap();
        running.push(tokio::spawn(async move {
            let (ours, theirs) = (Moved::default(), Moved::default());
            let (at_user, at_service, at_relay, at_forwarder) = tokio::join!(
                play(far_user, &user, 1),
                play(far_service, &service, 2),
                outward.pipe(near_user, Side::User, &ours, HALF_CLOSED_IDLE),
                inward.pipe(near_service, Side::Service, &theirs, HALF_CLOSED_IDLE),
            );
            check(&at_user.0, at_user.1, &user, &service, 2);
            check(&at_service.0, at_service.1, &service, &user, 1);
            for (end, moved) in [(at_relay, ours), (at_forwarder, theirs)] {
                match (user.last, service.last) {
                    (Last::Finish, Last::Finish) => {
                        assert_eq!(end, End::Done);
                        assert_eq!(moved.up.load(Ordering::Relaxed), user.length() as u64);
                        assert_eq!(moved.down.load(Ordering::Relaxed), service.length() as u64);
                    }
                    (Last::Finish, _) => assert!(matches!(end, End::ServiceAborted(_) | End::Done), "{end:?}"),
                    (_, Last::Finish) => assert!(matches!(end, End::UserAborted(_) | End::Done), "{end:?}"),
                    _ => assert!(!matches!(end, End::Idle | End::Stalled), "{end:?}"),
                }
            }
        }));
    }
    for task in running {
        task.await.unwrap();
    }
    // A reset may still be on its way.
    soon(async {
        while relay.streams() + forwarder.streams() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_looks_like_tcp(
        parties in prop::collection::vec((plan(true, 12), plan(false, 12)), 1..12),
        small in any::<[bool; 2]>(),
        secure in any::<[bool; 3]>(),
        threads in 1..3usize,
        limited in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        // The runtime's own thread plays no part beside its workers.
        runtime.block_on(async {
            let buffers = small.map(|small| if small { 8 * 1024 } else { 0 });
            soon(tokio::spawn(run(parties, buffers, secure, limited))).await.unwrap();
        });
    }
}
