//! Who may use the relay, from invites and from its configuration, and the rules by which that changes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use relay_proto::identity::Name;
use serde::{Deserialize, Serialize};

use super::file::{self, Document};
use super::record::{Moment, Record, Text};
use super::{Directory, Locked, StateError};
use crate::identity::{Identity, Rights};

/// All identities of a relay.
///
/// A name in the configuration is that of the configuration's identity, whoever was invited by it; but one that was
/// revoked stays so.
#[derive(Clone, Debug, Default)]
pub struct Identities(BTreeMap<Name, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    identity: Identity,
    source: Source,
    /// What the state has by this name: all of an invite, of others only that they were revoked.
    stored: Option<Identity>,
}

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// An invite, kept in the state.
    Invite,
    /// The configuration, or a file of tokens that it names.
    Configuration,
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    identity: Vec<Record>,
}

impl Document for Stored {
    const NAME: &'static str = "identities.toml";
    const REMEDY: &'static str = "put back a copy of it; without one, move it away and invite everyone anew (those of \
                                  the configuration that were revoked have to be revoked again)";
}

impl Identities {
    /// The state's identities, beside `configured` ones. None, if the state has no list yet.
    ///
    /// # Errors
    /// The list is damaged or cannot be read.
    pub fn load(directory: &Directory, configured: impl IntoIterator<Item = Identity>) -> Result<Self, StateError> {
        let mut entries = BTreeMap::new();
        for stored in file::read::<Stored>(directory)?.into_iter().flat_map(|file| file.identity) {
            let identity = Identity::from(stored);
            let entry = Entry { stored: Some(identity.clone()), source: Source::Invite, identity };
            if entries.insert(entry.identity.name.clone(), entry).is_some() {
                let path = directory.path().join(Stored::NAME);
                return Err(StateError::Damaged { path, line: None, remedy: Stored::REMEDY });
            }
        }
        for mut identity in configured {
            let stored = entries.remove(&identity.name).and_then(|entry| entry.stored);
            identity.revoked |= stored.as_ref().is_some_and(|stored| stored.revoked);
            entries.insert(identity.name.clone(), Entry { identity, source: Source::Configuration, stored });
        }
        Ok(Self(entries))
    }

    /// Keeps the list: that of a new state, or one that was changed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, locked: &Locked) -> Result<(), StateError> {
        let stored = self.0.values().filter_map(|entry| entry.stored.as_ref());
        file::write(locked, &Stored { identity: stored.map(Record::from).collect() })
    }

    /// The identity by this name, revoked ones and expired ones as well.
    pub fn get(&self, name: &Name) -> Option<&Identity> {
        self.0.get(name).map(|entry| &entry.identity)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        self.0.values().map(|entry| &entry.identity)
    }

    /// Adds one, in the place of an invited one by the same name if `replace` is set. It is kept when this returns.
    ///
    /// # Errors
    /// The name is in use, or the list cannot be written: nothing was changed.
    pub fn add(&mut self, locked: &Locked, identity: Identity, replace: bool) -> Result<(), ChangeError> {
        match self.0.get(&identity.name).map(|entry| entry.source) {
            None => {}
            Some(Source::Invite) if replace => {}
            Some(Source::Invite) => return Err(ChangeError::InUse),
            Some(Source::Configuration) => return Err(ChangeError::Configured),
        }
        let entry = Entry { source: Source::Invite, stored: Some(identity.clone()), identity };
        self.change(locked, |entries| drop(entries.insert(entry.identity.name.clone(), entry)))
    }

    /// Revokes one, for good. It is kept when this returns. Whether it was revoked already.
    ///
    /// # Errors
    /// There is none by that name, or the list cannot be written: nothing was changed.
    pub fn revoke(&mut self, locked: &Locked, name: &Name) -> Result<bool, ChangeError> {
        let Some(Entry { identity, stored, source }) = self.0.get(name).cloned() else {
            return Err(ChangeError::Unknown);
        };
        let was_revoked = identity.revoked;
        let alone = Identity {
            verifier: None,
            certificate: None,
            rights: Rights::default(),
            revoked: true,
            ..identity.clone()
        };
        let stored = Some(Identity { revoked: true, ..stored.unwrap_or(alone) });
        let entry = Entry { identity: Identity { revoked: true, ..identity }, source, stored };
        self.change(locked, |entries| drop(entries.insert(name.clone(), entry)))?;
        Ok(was_revoked)
    }

    /// What is not kept has not happened.
    fn change(&mut self, locked: &Locked, change: impl FnOnce(&mut BTreeMap<Name, Entry>)) -> Result<(), ChangeError> {
        let mut changed = self.clone();
        change(&mut changed.0);
        changed.store(locked).map_err(|error| ChangeError::NotKept(error.to_string()))?;
        *self = changed;
        Ok(())
    }

    /// All of them for the operator; `usage` says what each is using, if that is known.
    pub fn list(&self, usage: impl Fn(&Name) -> Option<Usage>) -> Vec<Listed> {
        let now = SystemTime::now();
        let list = |(name, Entry { identity, source, .. }): (&Name, &Entry)| {
            let rights = &identity.rights;
            let usage = usage(name);
            Listed {
                name: Text(name.clone()),
                state: match rights.expires {
                    _ if identity.revoked => Standing::Revoked,
                    Some(end) if end <= now => Standing::Expired,
                    _ => Standing::Active,
                },
                source: *source,
                ports: rights.ports,
                tunnels: usage.map(|usage| usage.tunnels),
                max_tunnels: rights.max_tunnels,
                users: usage.map(|usage| usage.users),
                max_users: rights.max_users,
                bandwidth: rights.bandwidth,
                expires: rights.expires.map(|time| Text(Moment(time))),
            }
        };
        self.0.iter().map(list).collect()
    }
}

/// What an identity uses now.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Tunnels, reserved ports included.
    pub tunnels: usize,
    /// Users of all its tunnels.
    pub users: usize,
}

/// Whether an identity may use the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It may.
    Active,
    /// Not any more: the operator revoked it.
    Revoked,
    /// Not any more: its time is over.
    Expired,
}

/// An identity as the operator sees it. Its keys in JSON are the fields' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub(super) name: Text<Name>,
    pub(super) state: Standing,
    pub(super) source: Source,
    pub(super) ports: Option<(u16, u16)>,
    pub(super) tunnels: Option<usize>,
    pub(super) max_tunnels: usize,
    pub(super) users: Option<usize>,
    pub(super) max_users: usize,
    pub(super) bandwidth: Option<u64>,
    pub(super) expires: Option<Text<Moment>>,
}

/// Why a list of identities stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ChangeError {
    /// Somebody was invited by that name, perhaps revoked since.
    InUse,
    /// The name is one of the configuration's.
    Configured,
    /// There is nobody by that name.
    Unknown,
    /// The list cannot be written. Why, and what to do.
    NotKept(String),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str(
                "the name is in use: choose another, or give it a new token with --replace (its old one ends, and what \
                 it has open is cut)",
            ),
            Self::Configured => f.write_str("the configuration has an identity by that name: choose another"),
            Self::Unknown => f.write_str("nobody has that name: `relay identities` lists those who have one"),
            Self::NotKept(error) => f.write_str(error),
        }
    }
}

impl Error for ChangeError {}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::rig::{self, identity, name};
    use super::*;

    fn load(place: &tempfile::TempDir, configured: &[Identity]) -> Identities {
        Identities::load(&Directory::find(Some(place.path())).unwrap(), configured.iter().cloned()).unwrap()
    }

    #[test]
    fn all_of_an_invite_is_kept() {
        let place = rig::state();
        let mut invited = identity("laptop");
        invited.rights = Rights {
            ports: Some((7001, 7010)),
            max_tunnels: 1,
            max_users: 2,
            bandwidth: Some(3),
            expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000)),
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            refuse: vec!["2001:db8::/32".parse().unwrap()],
        };
        let locked = rig::lock(place.path());
        let mut identities = load(&place, &[]);
        identities.add(&locked, invited.clone(), false).unwrap();
        assert_eq!(load(&place, &[]).get(&name("laptop")), Some(&invited));
        let text = fs::read_to_string(place.path().join("identities.toml")).unwrap();
        assert!(text.contains("expires = \"2096-10-02T07:06:40Z\""), "{text}");

        identities.revoke(&locked, &name("laptop")).unwrap();
        let revoked = Identity { revoked: true, ..invited };
        assert_eq!(load(&place, &[]).iter().collect::<Vec<_>>(), [&revoked]);
    }

    #[test]
    fn a_name_in_use_is_replaced_only_when_asked() {
        let place = rig::state();
        let locked = rig::lock(place.path());
        let mut identities = load(&place, &[]);
        identities.add(&locked, identity("a"), false).unwrap();
        let new = Identity { rights: Rights { max_users: 1, ..Rights::default() }, ..identity("a") };
        for revoked in [false, true] {
            if revoked {
                assert_eq!(identities.revoke(&locked, &name("a")), Ok(false));
                assert_eq!(identities.revoke(&locked, &name("a")), Ok(true));
            }
            assert_eq!(identities.add(&locked, new.clone(), false), Err(ChangeError::InUse));
            identities.add(&locked, new.clone(), true).unwrap();
            assert_eq!(load(&place, &[]).get(&name("a")), Some(&new));
        }
        assert_eq!(identities.revoke(&locked, &name("b")), Err(ChangeError::Unknown));
    }

    #[test]
    fn a_revocation_wins_over_the_configuration() {
        let place = rig::state();
        let locked = rig::lock(place.path());
        let configured = [identity("a"), identity("b")];
        let mut identities = load(&place, &configured);
        assert_eq!(identities.add(&locked, identity("a"), true), Err(ChangeError::Configured));
        identities.revoke(&locked, &name("a")).unwrap();

        let again = load(&place, &configured);
        assert!(again.get(&name("a")).unwrap().revoked && !again.get(&name("b")).unwrap().revoked);
        // Whoever has the token can still be told.
        assert_eq!(again.get(&name("a")).unwrap().verifier, configured[0].verifier);
        let text = fs::read_to_string(place.path().join("identities.toml")).unwrap();
        assert!(!text.contains("verifier") && !text.contains("\"b\""), "{text}");
        // An identity that has left the configuration does not come back by itself.
        assert!(load(&place, &[]).get(&name("a")).unwrap().revoked);
    }

    #[test]
    fn an_invite_that_the_configuration_hides_is_kept() {
        let place = rig::state();
        let locked = rig::lock(place.path());
        let mut identities = load(&place, &[]);
        let invited = Identity { rights: Rights { max_users: 1, ..Rights::default() }, ..identity("a") };
        identities.add(&locked, invited.clone(), false).unwrap();
        let mut hidden = load(&place, &[identity("a")]);
        assert_eq!(hidden.get(&name("a")), Some(&identity("a")));
        hidden.add(&locked, identity("b"), false).unwrap();
        assert_eq!(load(&place, &[]).get(&name("a")), Some(&invited));
    }

    #[test]
    fn a_name_that_is_there_twice_is_damage() {
        let place = rig::state();
        let path = place.path().join("identities.toml");
        let one = "[[identity]]\nname = \"a\"\nmax_tunnels = 1\nmax_users = 1\n";
        for (body, good) in [
            (one.to_owned(), true),
            (format!("{one}{one}"), false),
            (one.replace("\"a\"", "\"\\u001b[1m\""), false),
            (one.replace("max_users", "max_user"), false),
            (format!("{one}verifier = \"short\"\n"), false),
            (format!("{one}expires = \"tomorrow\"\n"), false),
        ] {
            fs::write(&path, format!("version = 1\n{body}# end\n")).unwrap();
            let loaded = Identities::load(&Directory::find(Some(place.path())).unwrap(), []);
            assert_eq!(loaded.is_ok(), good, "{body}");
        }
    }

    #[test]
    fn times_beyond_what_can_be_written_do_no_harm() {
        let far = SystemTime::now() + Duration::from_secs(1 << 40);
        assert_eq!(Moment(far).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Moment(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).to_string(), "1970-01-01T00:00:00Z");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_cannot_be_kept_has_not_happened() {
        let Some(disk) = rig::SmallDisk::mount() else { return };
        let locked = rig::fill(disk.path());
        let mut identities = Identities::default();
        disk.fill();
        let error = identities.add(&locked, identity("a"), false).unwrap_err();
        assert!(matches!(&error, ChangeError::NotKept(why) if why.contains("free some space")), "{error}");
        assert!(identities.get(&name("a")).is_none());
    }
}
