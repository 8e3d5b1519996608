//! Where clients may reach this relay, when nobody said it. Nobody outside is asked.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::state::{Facts, Host};

/// How long the resolver may take over the machine's own name: without a network it would try for long.
const RESOLVE_WAIT: Duration = Duration::from_secs(3);

/// Who can reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Everyone, as far as the address tells.
    Public,
    /// Machines of the same network.
    Private,
    /// This machine.
    Loopback,
}

impl Reach {
    pub(super) fn of(address: IpAddr) -> Self {
        let (private, loopback) = match address.to_canonical() {
            IpAddr::V4(v4) => {
                // RFC 6598: between a provider's customers and the provider.
                let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
                (v4.is_private() || v4.is_link_local() || shared, v4.is_loopback())
            }
            IpAddr::V6(v6) => (v6.is_unique_local() || v6.is_unicast_link_local(), v6.is_loopback()),
        };
        match (private, loopback) {
            (_, true) => Self::Loopback,
            (true, false) => Self::Private,
            (false, false) => Self::Public,
        }
    }
}

/// A host that nobody named.
#[derive(Debug, PartialEq)]
pub(super) struct Guess {
    pub(super) host: String,
    /// What it was taken from.
    pub(super) from: &'static str,
    /// Where its name leads, if that is known.
    pub(super) reach: Option<Reach>,
}

/// What a machine knows of itself.
pub(super) struct Machine {
    /// Its full name and the addresses that this resolves to.
    pub(super) name: Option<(String, Vec<IpAddr>)>,
    /// Addresses by which it speaks to others.
    pub(super) addresses: Vec<IpAddr>,
}

/// The first that is known of: the configured host, a name of the configured certificate, the address that the server
/// listens on, the machine's name, its addresses.
pub(super) fn guess(
    host: Option<&Host>,
    certificate: Option<&[String]>,
    facts: &Facts,
    machine: impl FnOnce() -> Machine,
) -> Guess {
    let known = |host: String, from| Guess { host, from, reach: None };
    if let Some(host) = host {
        return known(host.to_string(), "as its configuration says");
    }
    if let Some(name) = certificate.into_iter().flatten().find(|name| !name.contains('*')) {
        return known(name.clone(), "a guess from its certificate");
    }
    let listen = facts.listen.ip();
    if !listen.is_unspecified() {
        return known(listen.to_string(), "a guess from where it listens");
    }
    let Machine { name, addresses } = machine();
    if let Some((name, resolved)) = name
        && let Some(reach) = resolved.into_iter().map(Reach::of).min()
        && reach != Reach::Loopback
    {
        return Guess { host: name, from: "a guess from this machine's name", reach: Some(reach) };
    }
    let served = |address: &IpAddr| listen.is_ipv6() || address.is_ipv4();
    let best = addresses.into_iter().filter(served).min_by_key(|&address| (Reach::of(address), address.is_ipv6()));
    known(best.unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string(), "a guess from this machine's addresses")
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        let name = full_name().and_then(|name| Some((name.clone(), resolve(name)?)));
        // Connecting a UDP socket chooses an address and sends nothing; those to connect to are nobody's (RFC 5737,
        // RFC 3849).
        let towards = |remote: IpAddr| {
            let any: IpAddr =
                if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind(SocketAddr::from((any, 0))).ok()?;
            socket.connect((remote, 9)).ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        let nobody = [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
        Self { name, addresses: nobody.into_iter().filter_map(towards).collect() }
    }
}

/// This machine's name with its domain, as `hostname -f` has it.
fn full_name() -> Option<String> {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok()?;
    if name.contains('.') {
        return Some(name);
    }
    in_hosts(&fs::read_to_string("/etc/hosts").ok()?, &name)
}

/// The full name of which `name` is a short form, in a file of hosts: `ADDRESS FULL SHORT…`.
fn in_hosts(hosts: &str, name: &str) -> Option<String> {
    let lines = hosts.lines().filter_map(|line| line.split('#').next());
    let mut matching = lines.filter_map(|line| {
        let names: Vec<_> = line.split_whitespace().skip(1).collect();
        names.contains(&name).then_some(names)
    });
    matching.find_map(|names| names.into_iter().find(|full| full.contains('.')).map(String::from))
}

fn resolve(name: String) -> Option<Vec<IpAddr>> {
    let (send, resolved) = mpsc::channel();
    // It ends by itself; nobody waits for it beyond its time.
    thread::spawn(move || send.send((name.as_str(), 0).to_socket_addrs().map(Vec::from_iter)));
    let addresses = resolved.recv_timeout(RESOLVE_WAIT).ok()?.ok()?;
    Some(addresses.into_iter().map(|address: SocketAddr| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, resolved: &str, addresses: &[&str]) -> Machine {
        Machine {
            name: Some((name.into(), vec![resolved.parse().unwrap()])),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_first_that_is_known_is_taken() {
        let host: Host = "named.example:443".parse().unwrap();
        let names = ["*.example".to_owned(), "certified.example".to_owned()];
        let any = Facts::default();
        let one = Facts { listen: "10.0.0.1:7000".parse().unwrap(), ..Facts::default() };
        let v4 = Facts { listen: "0.0.0.0:7000".parse().unwrap(), ..Facts::default() };
        let far = || machine("vps.example", "198.51.100.1", &["10.0.0.2"]);
        let near = || machine("vps.example", "127.0.1.1", &["10.0.0.2", "2001:db8::2"]);
        let guessed = |host, names, facts, machine: fn() -> Machine| guess(host, names, facts, machine).host;
        assert_eq!(guessed(Some(&host), Some(&names[..]), &one, far), "named.example:443");
        assert_eq!(guessed(None, Some(&names), &one, far), "certified.example");
        assert_eq!(guessed(None, Some(&names[..1]), &one, far), "10.0.0.1");
        assert_eq!(guessed(None, None, &any, far), "vps.example");
        assert_eq!(guessed(None, None, &any, near), "2001:db8::2");
        assert_eq!(guessed(None, None, &v4, near), "10.0.0.2");
        assert_eq!(guessed(None, None, &v4, || machine("a.b", "::1", &[])), "127.0.0.1");
        let inside = guess(None, None, &any, || machine("vps.internal", "10.1.1.1", &[]));
        assert_eq!((&*inside.host, inside.reach), ("vps.internal", Some(Reach::Private)));
    }

    #[test]
    fn private_networks_are_known() {
        for (address, reach) in [
            ("8.8.8.8", Reach::Public),
            ("100.63.0.1", Reach::Public),
            ("100.64.0.1", Reach::Private),
            ("100.127.255.255", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.32.0.1", Reach::Public),
            ("192.168.1.1", Reach::Private),
            ("169.254.1.1", Reach::Private),
            ("::ffff:10.0.0.1", Reach::Private),
            ("fd00::1", Reach::Private),
            ("fe80::1", Reach::Private),
            ("2600::1", Reach::Public),
            ("127.0.0.2", Reach::Loopback),
            ("::1", Reach::Loopback),
        ] {
            assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
        }
    }

    #[test]
    fn a_short_name_is_looked_up_in_the_hosts_of_this_machine() {
        let hosts =
            "127.0.0.1 localhost\n127.0.1.1\tvps.example vps # mine\n#10.0.0.1 no.example other\n10.0.0.2 other";
        assert_eq!(in_hosts(hosts, "vps").as_deref(), Some("vps.example"));
        assert_eq!(in_hosts(hosts, "other"), None);
        assert_eq!(in_hosts(hosts, "ps"), None);
    }
}
