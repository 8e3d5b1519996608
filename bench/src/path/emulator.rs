//! The emulator: a process that carries packets between two TUN devices, one in each namespace.
//!
//! Each direction has two threads. One reads packets and notes when they are to arrive; the other waits for that
//! time and writes them. What is between them is bounded by the path: its delay and its queue.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use super::queue::{Queue, Shape};
use super::tun;
use crate::load::wait_for_end_of_input;
use crate::place::tool;

/// The ends' addresses.
pub(crate) const NEAR: [u8; 4] = [10, 77, 0, 1];
/// See [`NEAR`].
pub(crate) const FAR: [u8; 4] = [10, 77, 0, 2];

/// What joins what.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A process in one namespace
    #[arg(long)]
    near: u32,
    /// A process in the other
    #[arg(long)]
    far: u32,
    #[command(flatten)]
    shape: Shape,
}

/// Joins the namespaces, says so, and carries packets until standard input ends.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let (near_address, far_address) = (dotted(NEAR), dotted(FAR));
    let near = end("n", options.near, &near_address, &far_address)?;
    let far = end("f", options.far, &far_address, &near_address)?;
    carry(near.try_clone()?, far.try_clone()?, Queue::new(options.shape, Instant::now(), 1));
    carry(far, near, Queue::new(options.shape, Instant::now(), 2));
    println!("joined");
    wait_for_end_of_input();
    Ok(())
}

fn dotted([a, b, c, d]: [u8; 4]) -> String {
    format!("{a}.{b}.{c}.{d}")
}

/// A TUN device in the namespace of that process.
fn end(suffix: &str, pid: u32, address: &str, peer: &str) -> io::Result<File> {
    let name = format!("relay{}{suffix}", std::process::id());
    let device = tun::open(&name)?;
    let pid = pid.to_string();
    tool("ip", &["link", "set", &name, "netns", &pid])?;
    let inside = |words: &[&str]| tool("nsenter", &[&["--net", "--target", &pid, "--", "ip"], words].concat());
    inside(&["address", "add", address, "peer", peer, "dev", &name])?;
    // As much as a queue of the path's own holds, so that packets are lost there and nowhere else.
    inside(&["link", "set", &name, "mtu", "1500", "txqueuelen", "2000", "up"])?;
    Ok(device)
}

fn carry(from: File, to: File, queue: Queue) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || read(from, queue, &sender));
    thread::spawn(move || write(to, &receiver));
}

/// Ends when the device is gone.
fn read(mut from: File, mut queue: Queue, sender: &Sender<(Instant, Vec<u8>)>) {
    let mut packet = vec![0; 64 * 1024];
    while let Ok(got) = from.read(&mut packet) {
        if let Some(due) = queue.admit(Instant::now(), got)
            && sender.send((due, packet[..got].to_vec())).is_err()
        {
            break;
        }
    }
}

fn write(mut to: File, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, packet) in receiver {
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        // A device that is not up takes nothing: lost.
        let _ = to.write_all(&packet);
    }
}
