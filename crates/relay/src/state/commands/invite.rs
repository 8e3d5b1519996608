//! `relay invite`.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use relay_client::RelayAddr;
use relay_proto::identity::{Name, Token};
use relay_proto::invite::Invite;

use super::guess::{Guess, Machine, Reach, guess};
use super::{CommandError, Context, Counts, change, list};
use crate::identity::{Identity, Rights};
use crate::state::control::Request;
use crate::state::record::Record;
use crate::state::{Certificate, Directory, Facts, Host, StateError};

/// The longest time until an invite expires: nobody will see the difference, and no clock overflows.
const LONGEST: Duration = Duration::from_hours(1000 * 365 * 24);

/// Who is to be invited.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What the identity is called.
    pub name: Name,
    /// What it may do; when that ends is [`expires`](Self::expires) from now.
    pub rights: Rights,
    /// How long it may, from now; `None` for ever. More than 1 000 years count as so many.
    pub expires: Option<Duration>,
    /// Where its owner reaches the relay; guessed if `None`.
    pub host: Option<Host>,
    /// Whether it takes the place of one by the same name, whose token then ends.
    pub replace: bool,
}

/// Invites somebody: the URL goes to `out`, what to do with it to `err`. The relay knows the identity when this
/// returns.
///
/// # Errors
/// The name is in use, the state is refused, or the server does not answer.
pub fn invite(
    context: &Context<'_>,
    wish: &Wish,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), CommandError> {
    let directory = Directory::find(context.state)?;
    // A server that is just starting has written what follows once it answers.
    list(&directory, context)?;
    let facts = Facts::load(&directory)?;
    let certificate = Certificate::load(&directory)?.ok_or_else(|| StateError::Missing {
        looked: vec![directory.path().into()],
        hidden: Vec::new(),
        named: false,
    })?;
    let names = context.certificate.as_deref().or(facts.certificate.as_deref());
    let (relay, guessed) = address(context, wish, names, &facts)?;
    // Who verifies a name by the system's roots must not be bound to the certificate, which is renewed.
    let by_name = names.is_some() && relay.host().parse::<IpAddr>().is_err();
    let token = Token::from_random(rand::random());
    let identity = Identity {
        name: wish.name.clone(),
        verifier: Some(token.verifier()),
        certificate: None,
        rights: Rights {
            expires: wish.expires.map(|time| SystemTime::now() + time.min(LONGEST)),
            ..wish.rights.clone()
        },
        revoked: false,
    };

    let request = Request::Add { identity: Record::from(&identity), replace: wish.replace };
    let cut = change(&directory, context, &wish.name, &request, err)?;

    let invite = Invite { name: identity.name, token, relay, pin: (!by_name).then(|| certificate.pin()) };
    writeln!(out, "{invite}")?;
    out.flush()?;
    if let Some(cut) = cut.filter(|_| wish.replace) {
        writeln!(err, "replaced {}: cut {}", wish.name, Counts(cut))?;
    }
    if let Some(Guess { from, .. }) = &guessed {
        let relay = &invite.relay;
        writeln!(err, "note: clients will reach the relay at {relay}, {from}; name another with --host HOST[:PORT]")?;
    }
    if let Some(warning) = warning(&invite.relay, guessed.and_then(|guess| guess.reach)) {
        writeln!(err, "warning: {} {warning}; name another with --host HOST[:PORT]", invite.relay.host())?;
    }
    if by_name && names.is_some_and(|names| !names.iter().any(|name| covers(name, invite.relay.host()))) {
        let host = invite.relay.host();
        writeln!(err, "warning: the configured certificate is not for {host}: clients will refuse it")?;
    }
    write!(
        err,
        "on the machine of the service, type this, with the service's port for SERVICE:\n\n  \
         relay forward SERVICE '{invite}'\n\n\
         The invite is shown only now. In a command it can be seen in `ps` and in the shell's history; to avoid that, \
         save it to a file that only you can read, and type:\n\n  relay forward SERVICE --invite-file FILE\n"
    )?;
    Ok(())
}

/// Where the invite says that the relay is, and how that was guessed.
fn address(
    context: &Context<'_>,
    wish: &Wish,
    names: Option<&[String]>,
    facts: &Facts,
) -> Result<(RelayAddr, Option<Guess>), CommandError> {
    let port = facts.listen.port();
    if let Some(host) = &wish.host {
        return Ok((host.at(port).map_err(CommandError::Host)?, None));
    }
    let guess = guess(context.host.as_ref().or(facts.host.as_ref()), names, facts, Machine::this);
    let host: Host = guess.host.parse().map_err(CommandError::Host)?;
    Ok((host.at(port).map_err(CommandError::Host)?, Some(guess)))
}

/// Why clients elsewhere may not reach it.
fn warning(relay: &RelayAddr, reach: Option<Reach>) -> Option<&'static str> {
    let of_address = || relay.host().parse().ok().map(Reach::of);
    match reach.or_else(of_address) {
        _ if relay.is_loopback() => Some("is this machine itself: no other can reach the relay there"),
        Some(Reach::Loopback) => Some("leads to this machine itself: no other can reach the relay there"),
        Some(Reach::Private) => Some("is private: only machines of the same network can reach the relay there"),
        Some(Reach::Public) | None => None,
    }
}

/// Whether a name of a certificate, perhaps with `*` for its first label, is for `host`.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        None => name.eq_ignore_ascii_case(host),
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
    }
}
