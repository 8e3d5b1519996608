//! The demo: relay, forwarder and a small web service in one process, on free ports of this machine.

use std::fmt::Write;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, header};
use axum::response::Html;
use axum::routing::get;
use relay_client::{Protocol, Relay, RelayAddr};
use relay_net::socket;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::service::Service;
use crate::{Config, Limits, Server, forward};

const PAGE: &str = include_str!("demo.html");

/// How long open connections may hold up the end.
const DRAIN: Duration = Duration::from_secs(1);

/// Runs the demo until `shutdown` completes. `announce` is called with the URL to open.
///
/// # Errors
/// No free port on loopback.
pub async fn run(announce: impl Fn(&str) + Send + Sync, shutdown: impl Future<Output = ()> + Send) -> io::Result<()> {
    let stop = CancellationToken::new();
    let control = socket::listen((Ipv4Addr::LOCALHOST, 0).into())?;
    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let place = Place { control: control.local_addr()?, service: web.local_addr()?, public: OnceLock::new() };
    let place = Arc::new(place);

    let limits = Limits { drain: DRAIN, ..Limits::default() };
    let config = Config { public_address: Ipv4Addr::LOCALHOST.into(), limits, ..Config::default() };
    let relay = Server::run(control, config, stop.clone().cancelled_owned());

    let to_io = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let address = |of: SocketAddr| RelayAddr::new(&of.ip().to_string(), of.port()).map_err(|error| to_io(&error));
    let service = Service::Tcp(address(place.service)?);
    let mut config = forward::Config::new(service, Relay::Plain(address(place.control)?), Protocol::Multiplex);
    config.drain = DRAIN;
    let established = |public: &RelayAddr| {
        let _ = place.public.set(public.clone());
        announce(&format!("http://{public}/"));
    };
    let forwarder = async {
        let forwarded = forward::run(config, established, stop.clone().cancelled_owned()).await;
        forwarded.map_err(|error| to_io(&error))
    };

    let app = axum::Router::new().route("/", get(page)).with_state(place.clone());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let service = axum::serve(web, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    // It would wait for everyone who has begun a request, also directly.
    let service = async {
        tokio::select! {
            served = service => served,
            () = async { stop.cancelled().await; sleep(DRAIN).await } => Ok(()),
        }
    };

    let until_asked = async {
        shutdown.await;
        stop.cancel();
        Ok(())
    };
    tokio::try_join!(relay, forwarder, service, until_asked).map(|_| ())
}

/// Where the parts of the demo are.
struct Place {
    control: SocketAddr,
    service: SocketAddr,
    public: OnceLock<RelayAddr>,
}

async fn page(
    State(place): State<Arc<Place>>,
    ConnectInfo(forwarder): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Html<String> {
    let public = place.public.get().map_or_else(String::new, ToString::to_string);
    let asked = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(&public);
    Html(
        PAGE.replace("{{asked}}", &escape(asked))
            .replace("{{public}}", &escape(&public))
            .replace("{{control}}", &place.control.to_string())
            .replace("{{forwarder}}", &forwarder.to_string())
            .replace("{{service}}", &place.service.to_string()),
    )
}

/// Text as text in a page: the host that was asked for is the browser's to choose.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        let plain = c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '[' | ']');
        let _ = if plain { write!(escaped, "{c}") } else { write!(escaped, "&#{};", u32::from(c)) };
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_sends_is_only_text() {
        assert_eq!(escape("[::1]:80"), "[::1]:80");
        assert_eq!(escape("<b a='{{public}}'>"), "&#60;b&#32;a&#61;&#39;&#123;&#123;public&#125;&#125;&#39;&#62;");
    }
}
