//! An identity as it is written: in a file of the state, and to the running server.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use relay_proto::identity::{Name, Verifier};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::identity::{Identity, Rights};

/// What is written as its text and read back from it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text<T>(pub(super) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// A time as RFC 3339 has it, in whole seconds of UTC.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moment(pub(super) SystemTime);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text has four digits for the year: what is beyond them, or before 1970, is as good as their ends.
        const LAST: Duration = Duration::from_secs(253_402_300_799);
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST);
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).fmt(f)
    }
}

impl FromStr for Moment {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339(text).map(Self)
    }
}

/// An identity, but for the client certificate: only those of the configuration have one.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    name: Text<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verifier: Option<Text<Verifier>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<(u16, u16)>,
    max_tunnels: usize,
    max_users: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Text<Moment>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refuse: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    revoked: bool,
}

impl From<&Identity> for Record {
    fn from(identity: &Identity) -> Self {
        let rights = &identity.rights;
        Self {
            name: Text(identity.name.clone()),
            verifier: identity.verifier.clone().map(Text),
            ports: rights.ports,
            max_tunnels: rights.max_tunnels,
            max_users: rights.max_users,
            bandwidth: rights.bandwidth,
            expires: rights.expires.map(|time| Text(Moment(time))),
            allow: rights.allow.clone(),
            refuse: rights.refuse.clone(),
            revoked: identity.revoked,
        }
    }
}

impl From<Record> for Identity {
    fn from(record: Record) -> Self {
        Self {
            name: record.name.0,
            verifier: record.verifier.map(|text| text.0),
            certificate: None,
            rights: Rights {
                ports: record.ports,
                max_tunnels: record.max_tunnels,
                max_users: record.max_users,
                bandwidth: record.bandwidth,
                expires: record.expires.map(|text| text.0.0),
                allow: record.allow,
                refuse: record.refuse,
            },
            revoked: record.revoked,
        }
    }
}
