//! Accepting while the process has no descriptor left; alone in its file, as the limit is the whole process's.
#![cfg(target_os = "linux")]

use relay_net::socket::{accept, listen};
use std::fs::File;
use std::time::Duration;
use tokio::net::TcpStream;

#[tokio::test]
async fn accepting_waits_for_a_descriptor_and_goes_on() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let user = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    let mut accepting = std::pin::pin!(accept(&listener));
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut accepting).await;
    assert!(waited.is_err(), "accepted without a descriptor");
    files.clear();
    let (_, address) = tokio::time::timeout(Duration::from_secs(5), accepting).await.expect("it gave up");
    assert_eq!(address, user.local_addr().unwrap());
}
