//! Networks of users, as people and clients write them.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Takes a network such as `10.0.0.0/8` or `2001:db8::/32`, or one address, and makes it canonical.
///
/// # Errors
/// The text is neither.
pub fn parse(text: &str) -> Result<IpNet, NotNetwork> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| NotNetwork)?,
    };
    Ok(canonical(network))
}

/// The one form of a network: without bits behind its prefix, and IPv4 when it is made of IPv4-mapped addresses.
/// Users' addresses are compared in the same form, so a network of IPv6 holds none of IPv4, not even `::/0`.
pub fn canonical(network: IpNet) -> IpNet {
    let network = network.trunc();
    let IpNet::V6(v6) = network else { return network };
    let prefix = v6.prefix_len().checked_sub(96);
    let v4 = v6.network().to_ipv4_mapped().zip(prefix).and_then(|(v4, prefix)| Ipv4Net::new(v4, prefix).ok());
    v4.map_or(network, IpNet::V4)
}

/// A text that is no network. The writer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNetwork;

impl fmt::Display for NotNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a network is an address and a length, as in 10.0.0.0/8 or 2001:db8::/32, or one address")
    }
}

impl std::error::Error for NotNetwork {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_one_form() {
        for (written, form) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse(written).unwrap().to_string(), form, "{written}");
            assert_eq!(parse(form).unwrap().to_string(), form);
        }
        for bad in
            ["", "10", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "::/129", "[::1]", "fe80::1%eth0", "host", " ::"]
        {
            assert_eq!(parse(bad), Err(NotNetwork), "{bad}");
        }
    }
}
