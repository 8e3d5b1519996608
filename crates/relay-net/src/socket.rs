//! Provisional: signatures for the others; the real file follows.
#![allow(missing_docs, clippy::missing_const_for_fn, reason = "provisional")]
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, Ready};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}
macro_rules! each {
    ($s:ident, $x:ident => $e:expr) => {
        match $s {
            Socket::Tcp($x) => $e,
            #[cfg(unix)]
            Socket::Unix($x) => $e,
        }
    };
}
impl From<TcpStream> for Socket {
    fn from(s: TcpStream) -> Self {
        Self::Tcp(s)
    }
}
#[cfg(unix)]
impl From<UnixStream> for Socket {
    fn from(s: UnixStream) -> Self {
        Self::Unix(s)
    }
}
impl Socket {
    pub async fn readable(&self) -> io::Result<()> {
        each!(self, s => s.readable().await)
    }
    pub async fn writable(&self) -> io::Result<()> {
        each!(self, s => s.writable().await)
    }
    pub async fn ready(&self, i: Interest) -> io::Result<Ready> {
        each!(self, s => s.ready(i).await)
    }
    pub fn try_read(&self, b: &mut [u8]) -> io::Result<usize> {
        each!(self, s => s.try_read(b))
    }
    pub fn try_write(&self, b: &[u8]) -> io::Result<usize> {
        each!(self, s => s.try_write(b))
    }
    pub fn shutdown_write(&self) -> io::Result<()> {
        each!(self, s => SockRef::from(s).shutdown(std::net::Shutdown::Write))
    }
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        each!(self, s => s.take_error())
    }
    pub fn unsent(&self) -> usize {
        0
    }
    pub fn read_closed(&self) -> bool {
        false
    }
    /// The close, whenever it comes, is a reset (RST).
    pub fn reset_on_close(&self) {
        if let Self::Tcp(s) = self {
            let _ = SockRef::from(s).set_linger(Some(Duration::ZERO));
        }
    }
    pub fn abort(self) {
        self.reset_on_close();
    }
}
pub fn listen(_addr: SocketAddr) -> io::Result<TcpListener> {
    unimplemented!()
}
pub async fn accept(_l: &TcpListener) -> (TcpStream, SocketAddr) {
    unimplemented!()
}
pub fn canonical(a: SocketAddr) -> SocketAddr {
    SocketAddr::new(a.ip().to_canonical(), a.port())
}
pub fn watch_always_reading(_s: &TcpStream) -> io::Result<()> {
    unimplemented!()
}
pub fn watch_carrying(_s: &TcpStream) -> io::Result<()> {
    unimplemented!()
}
