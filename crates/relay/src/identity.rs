//! Who may use a relay, and what each may do.

use std::time::SystemTime;

use ipnet::IpNet;
use relay_proto::identity::{Name, Verifier};

/// One who may use the relay.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// What it is called.
    pub name: Name,
    /// What its proofs are checked with; `None` for one that has no token.
    pub verifier: Option<Verifier>,
    /// SHA-256 of the client certificate (DER) that proves it, too.
    pub certificate: Option<[u8; 32]>,
    /// What it may do.
    pub rights: Rights,
    /// It may not, any more. Kept so that its token never works again and its owner can be told so.
    pub revoked: bool,
}

/// What an identity may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Rights {
    /// The public ports that it may have, first and last; `None` for those that the relay gives to all identities.
    pub ports: Option<(u16, u16)>,
    /// Tunnels at once, reserved ports included.
    pub max_tunnels: usize,
    /// Users at once, of all its tunnels.
    pub max_users: usize,
    /// Bytes a second of each of its tunnels, both ways together.
    pub bandwidth: Option<u64>,
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// The networks whose users it may serve; empty for all.
    pub allow: Vec<IpNet>,
    /// The networks whose users it may not serve, even if allowed.
    pub refuse: Vec<IpNet>,
}

impl Default for Rights {
    /// 8 tunnels are plenty for one machine and few for an attacker. 4 096 users take some 50 MB.
    fn default() -> Self {
        Self {
            ports: None,
            max_tunnels: 8,
            max_users: 4096,
            bandwidth: None,
            expires: None,
            allow: Vec::new(),
            refuse: Vec::new(),
        }
    }
}
