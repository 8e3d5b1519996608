//! Our own relay holds what the kit asks for.

use relay::conformance::relay::{self as kit, CHECKS};
use relay::conformance::{Outcome, Row};

use crate::rig::{Own, OwnCertificate};

/// Tries a relay; nothing may fail, and what it does not offer is given.
async fn tried(target: &str) -> Vec<&'static str> {
    let tell = |row: &Row| {
        println!("{row}");
        Ok(())
    };
    let report = kit::run(&target.parse().unwrap(), tell).await.unwrap();
    assert_eq!(report.rows.len(), CHECKS.len());
    assert_eq!(report.failures(), 0, "{report}");
    let not_offered = report.rows.iter().filter(|row| matches!(row.outcome, Outcome::NotOffered(_)));
    not_offered.map(|row| row.name.split(':').next().unwrap()).collect()
}

#[tokio::test]
async fn an_open_relay_holds_all_that_needs_no_invite() {
    let own = Own::open().await;
    let mut not_offered = tried(&own.control.to_string()).await;
    not_offered.dedup();
    assert_eq!(not_offered, ["port", "identity", "tls"]);
}

#[tokio::test]
async fn a_closed_relay_holds_all_over_tls() {
    let certificate = OwnCertificate::new();
    let own = Own::closed(&certificate, false).await;
    let not_offered = tried(&certificate.invite(own.control)).await;
    assert_eq!(not_offered, ["identity"]);
}

#[tokio::test]
async fn a_closed_relay_that_takes_plain_text_holds_all() {
    let certificate = OwnCertificate::new();
    let own = Own::closed(&certificate, true).await;
    let not_offered = tried(&certificate.invite(own.control)).await;
    assert_eq!(not_offered, ["tls"]);
}
