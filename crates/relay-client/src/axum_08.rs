//! A listener as axum 0.8 takes it.

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::connect_info::Connected;
use axum::serve::{self, IncomingStream, ListenerExt, TapIo};

use crate::{Connection, Listener};

/// What stands for the address of a user where axum wants one and the relay does not tell it.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A user's address, for axum's [`ConnectInfo`](axum::extract::ConnectInfo) on a [`Listener`]: `None` where the relay
/// does not tell it. Needs the feature `axum-08`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserAddr(pub Option<SocketAddr>);

impl Connected<IncomingStream<'_, Listener>> for UserAddr {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(stream.io().user_addr())
    }
}

/// Needs the feature `axum-08`. The address that axum gets is the user's, or 0.0.0.0:0 where the relay does not tell
/// it; never the relay's own.
impl serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    /// The next user. When no more can come it is pending for ever, as axum ends only when it is told to:
    /// by `with_graceful_shutdown`, on [`Handle::closed`](crate::Handle::closed).
    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match Listener::accept(self).await {
            Ok(user) => {
                let address = user.user_addr().unwrap_or(UNKNOWN);
                (user, address)
            }
            Err(_) => pending().await,
        }
    }

    /// The public address, if the relay was given by its IP address. [`Listener::public_address`] always has it.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        let public = self.public_address();
        let named = |error| io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{public} is a name: {error}"));
        Ok(SocketAddr::new(public.host().parse().map_err(named)?, public.port()))
    }
}

impl Listener {
    /// The same listener, as axum gives addresses of: for `app.into_make_service_with_connect_info::<SocketAddr>()`,
    /// after which [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo) is the user's address, or 0.0.0.0:0 where
    /// the relay does not tell it. Needs the feature `axum-08`.
    pub fn into_axum(self) -> TapIo<Self, fn(&mut Connection)> {
        self.tap_io((|_| {}) as fn(&mut Connection))
    }
}
