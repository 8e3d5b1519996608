//! A listener as tonic 0.14 takes it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::{Connection, Error, Listener};

/// Needs the feature `tonic-014`. With it `request.remote_addr()` is the user's address, where the relay tells it, and
/// `request.local_addr()` that of the public port.
impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.public_addr(), remote_addr: self.user_addr() }
    }
}

/// Needs the feature `tonic-014`: the users, for `serve_with_incoming`. A lost tunnel only makes it wait. When no retry
/// can help it gives the error, once; then, and when the listener was [closed](crate::Handle::close), it ends.
impl Stream for Listener {
    type Item = Result<Connection, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(cx).map(|user| match user {
            Err(Error::Closed) => None,
            user => Some(user),
        })
    }
}
