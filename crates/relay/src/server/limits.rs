//! Every bound of the server, in one place.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use relay_net::{mux, pipe};

/// What the server allows its peers. The defaults suit a small machine on the open Internet; tests
/// lower them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept to the last line of the handshake, in all. 5 s: many round trips of the slowest
    /// path, and a byte now and then does not prolong it.
    pub handshake: Duration,
    /// How long a load balancer may take to say whom it brings to a public port. 5 s: it sends its header at once, so a
    /// lost packet is the most that delays it. At the control port it is part of the handshake.
    pub proxy_header: Duration,
    /// Connections whose handshake is not done. 1 024: beyond it the source with most of them loses
    /// its oldest.
    pub pending_handshakes: usize,
    /// Of these, from one source: an IPv4 address or an IPv6 /64. 256: a pool of the largest stock joins at once.
    /// Beside them, a source of clients with tunnels has as many as these tunnels have users waiting. More are
    /// reset at once.
    pub handshakes_per_source: usize,
    /// Failed proofs of one source after which it is not heard for a second, and with each more for twice as long,
    /// up to 5 minutes; forgotten 10 minutes after the last. 5: a person tries no more often.
    pub failures_per_source: usize,
    /// How long a connection may always show what it wants before it can be crowded out. 100 ms: a
    /// peer whose lines come with the connection is done by then, however many come at once; so
    /// even a flood that fills the bound is accepted at ten times the bound a second.
    pub crowding_grace: Duration,
    /// The life of an event tunnel's ticket. 10 s: a client that has not dialled back by then is
    /// not going to, and its user would rather try again.
    pub ticket: Duration,
    /// How long a user waits for a stream of a multiplexed link while 256 lack an ACK. 10 s, as for
    /// a ticket.
    pub stream_wait: Duration,
    /// How long a user who wants a member waits at an empty pool. 10 s, as for a ticket.
    pub member_wait: Duration,
    /// Users of one tunnel who wait for a stream, a ticket's claim or a member, silent ones included.
    /// 128: a client that keeps up serves them in a round trip. Beyond it the source with most of them loses its
    /// oldest.
    pub waiting_users: usize,
    /// Users of one tunnel at once. 16 384: some 200 MB, so one tunnel leaves room on a small machine. More are
    /// reset at once.
    pub users_per_tunnel: usize,
    /// Users of one source at once, of all tunnels together. 1 024: more than an office behind one address has.
    /// More are reset at once.
    pub users_per_source: usize,
    /// New users of one source a second, on average over one second. 200: a browser opens six connections to a
    /// site. More are reset at once.
    pub new_users_per_source: usize,
    /// Networks that the two above do not concern. This machine: a reverse proxy here stands for all its users.
    pub exempt: Vec<IpNet>,
    /// The number of open file descriptors from which on users are reset at once; `None` for 90 of a hundred that
    /// the process may have. Clients are still served in half of the rest.
    pub descriptors: Option<usize>,
    /// How long a user may always wait before it can be crowded out; until then newcomers wait in
    /// the kernel. 1 s: a client that can serve a burst at all has served some of it by then.
    pub waiting_grace: Duration,
    /// How long a user of a pool may stay silent while the service is silent too. 5 min: longer
    /// than browsers keep a spare connection; it costs the pool no member.
    pub silent: Duration,
    /// Idle members of one pool. 4 096: more than a forwarder keeps, and each is a file descriptor.
    pub idle_members: usize,
    /// What is read from an idle member ahead of its user. 16 KiB: enough for any greeting; the
    /// rest waits in the kernel.
    pub early_bytes: usize,
    /// How long a member must have been there to be given to a user who sent only an end-of-file. 3 s:
    /// clients take a member that ends without a byte within 2 s of joining for refused; the rest is
    /// for what the path delays.
    pub member_settled: Duration,
    /// How long a pool lives without a member or a connection in use. 30 s: time for its client to
    /// come back before the port goes.
    pub pool_grace: Duration,
    /// How long a half-closed connection may be silent in the direction still open. 5 min, as Go's
    /// yamux has it.
    pub half_closed_idle: Duration,
    /// How long live users may finish when the server stops. 30 s: what service managers wait for
    /// at least.
    pub drain: Duration,
    /// Bytes a second of each tunnel whose identity has no bound of its own, both ways together. No bound: only the
    /// operator knows what the machine's path has.
    pub bandwidth: Option<u64>,
    /// Bytes that all multiplexed links together may hold for users who do not take them. 128 MiB: queues grow by
    /// doubling, so half of a machine of 512 MB at the very most. Beyond it a link that has to hold more resets the
    /// user who has gone longest without taking a byte.
    pub memory: usize,
    /// The limits of each multiplexed link; the rate and the budget are the tunnel's and the server's.
    pub link: mux::Config,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            proxy_header: Duration::from_secs(5),
            pending_handshakes: 1024,
            handshakes_per_source: 256,
            failures_per_source: 5,
            crowding_grace: Duration::from_millis(100),
            ticket: Duration::from_secs(10),
            stream_wait: Duration::from_secs(10),
            member_wait: Duration::from_secs(10),
            waiting_users: 128,
            users_per_tunnel: 16_384,
            users_per_source: 1024,
            new_users_per_source: 200,
            exempt: vec![
                IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
            ],
            waiting_grace: Duration::from_secs(1),
            descriptors: None,
            silent: Duration::from_mins(5),
            idle_members: 4096,
            early_bytes: 16 * 1024,
            member_settled: Duration::from_secs(3),
            pool_grace: Duration::from_secs(30),
            half_closed_idle: pipe::HALF_CLOSED_IDLE,
            drain: Duration::from_secs(30),
            bandwidth: None,
            memory: 128 * 1024 * 1024,
            link: mux::Config::default(),
        }
    }
}
