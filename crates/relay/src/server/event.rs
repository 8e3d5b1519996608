//! Event: each user gets a ticket, which is announced on the control connection; a new connection
//! that names it becomes the user's.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use relay_net::pipe::{Party, pipe_at_rate};
use relay_net::socket::Socket;
use relay_proto::handshake::Id;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use super::registry::{Name, Names};
use super::tunnel::{PublicPort, Tunnel, User};
use super::{Claim, Ticket, aborted, reset};

/// Announcements written at a time, in bytes: one segment.
const ANNOUNCED_AT_ONCE: usize = 1400;

/// Serves an event tunnel until its control connection is lost or the server stops.
pub(super) async fn serve(tunnel: Arc<Tunnel>, public: PublicPort, control: Socket) {
    let (public, control) = match (public.brought(&tunnel.home), tunnel.home.bring(control)) {
        (Ok(public), Ok(control)) => (public, control),
        (Err(error), _) | (_, Err(error)) => return tunnel.end(&error),
    };
    let _ = control.watch_always_reading();
    let mut announcements = Announcements::default();
    let reason = loop {
        tokio::select! {
            user = public.accept(&tunnel) => {
                let (claimer, claim) = oneshot::channel();
                let ticket = tunnel.relay.tickets.give(Ticket { client: tunnel.client.clone(), claimer });
                announcements.add(ticket.id().clone(), &tunnel.relay.tickets, tunnel.limits().waiting_users);
                tunnel.relay.tasks.spawn(wait(tunnel.clone(), user, ticket, claim));
            }
            // One that is gone is noticed by then.
            () = public.contested() => drop(control.watch_closely()),
            ready = control.readable() => {
                if let Err(lost) = ready.and_then(|()| discard(&control)) {
                    break lost.to_string();
                }
            }
            ready = control.writable(), if !announcements.is_empty() || control.is_unflushed() => {
                if let Err(lost) = ready.and_then(|()| announcements.write(&control, &tunnel.relay.tickets)) {
                    break lost.to_string();
                }
            }
            reason = tunnel.ending() => break reason.into(),
        }
    };
    drop(public);
    tunnel.end(&reason);
}

/// Takes a user from the ticket to the end of its pipe.
async fn wait(tunnel: Arc<Tunnel>, user: User, ticket: Name<Ticket>, claim: oneshot::Receiver<Claim>) {
    let User { stream: user, address, beginning, mut place, stay } = user;
    let claimed = tokio::select! {
        biased;
        claimed = timeout(tunnel.limits().ticket, claim) => claimed,
        () = aborted(&user) => return debug!(user = %address, port = tunnel.port, "user left while it waited"),
        () = place.pushed_out() => return tunnel.crowded_out(user, address),
        () = tunnel.over.cancelled() => return reset(user),
    };
    drop((ticket, place));
    let Ok(Ok((service, early))) = claimed else {
        return tunnel.refused(user, address, "the client did not dial back in time");
    };
    let service = match tunnel.home.bring(service) {
        Ok(service) => Party { socket: service, early },
        Err(_) => return tunnel.refused(user, address, "the connection of the client cannot be used"),
    };
    service.socket.bound_unread_of_member();
    let user = Party { socket: Socket::from(user), early: beginning.ahead };
    let (idle, rate) = (tunnel.limits().half_closed_idle, tunnel.rate.clone());
    tunnel.carry(address, pipe_at_rate(user, service, &tunnel.moved, idle, rate, beginning.refuses)).await;
    drop(stay);
}

/// Reads what a client says on a connection on which it has nothing to say.
fn discard(control: &Socket) -> io::Result<()> {
    let mut nothing = [0; 1024];
    match control.try_read(&mut nothing) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed its control connection")),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// The tickets that the client has yet to be told.
#[derive(Default)]
struct Announcements {
    queue: VecDeque<Id>,
    /// Lines on their way, of which a part may have left.
    lines: Vec<u8>,
}

impl Announcements {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.lines.is_empty()
    }

    /// One more. From a client that does not read, no more pile up than twice the users who may wait.
    fn add<T>(&mut self, id: Id, tickets: &Names<T>, waiting_users: usize) {
        if self.queue.len() >= 2 * waiting_users {
            self.queue.retain(|id| tickets.contains(id));
        }
        self.queue.push_back(id);
    }

    /// Writes what the connection takes now. Tickets that nobody waits with any more are left out.
    fn write<T>(&mut self, control: &Socket, tickets: &Names<T>) -> io::Result<()> {
        while self.lines.len() < ANNOUNCED_AT_ONCE
            && let Some(id) = self.queue.pop_front()
        {
            if tickets.contains(&id) {
                self.lines.extend_from_slice(format!("{id}\n").as_bytes());
            }
        }
        if self.lines.is_empty() {
            return control.flush().map(drop);
        }
        match control.try_write(&self.lines) {
            Ok(written) => drop(self.lines.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_does_not_read_is_bounded_by_who_waits() {
        const MOST: usize = 10;
        let tickets = Names::default();
        let mut announcements = Announcements::default();
        let mut waiting = VecDeque::new();
        for _ in 0..1000 {
            if waiting.len() == MOST {
                waiting.pop_front();
            }
            let ticket = tickets.give(());
            announcements.add(ticket.id().clone(), &tickets, MOST);
            waiting.push_back(ticket);
            assert!(announcements.queue.len() <= 2 * MOST);
        }
        for ticket in &waiting {
            assert!(announcements.queue.contains(ticket.id()), "one who waits is still announced");
        }
    }
}
