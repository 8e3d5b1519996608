//! TUN devices: network interfaces whose packets this process reads and writes.
#![allow(unsafe_code, reason = "a TUN device is made by an ioctl, which no crate of ours wraps")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// `struct ifreq` as TUNSETIFF reads it: a name that ends with a zero, and flags.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

/// Makes a TUN device of this name, which lives as long as the file. Each read is a packet that the system sends
/// there, each write one that it receives.
///
/// # Errors
/// Not root, no TUN in the kernel, the name taken or too long.
pub(super) fn open(name: &str) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // Both fit: they are 1 and 0x1000.
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    if name.len() >= request.name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is too long for a device")));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open while `device` lives. TUNSETIFF reads and writes one `struct ifreq`, and
    // `request` is live, writable, and of its size and layout (asserted above for the size).
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(device) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_device_lives_as_long_as_its_file() {
        let name = format!("rb-test{}", std::process::id() % 10_000);
        let interface = Path::new("/sys/class/net").join(&name);
        match open(&name) {
            Ok(device) => {
                assert!(interface.exists());
                assert!(open(&name).is_err(), "the name is taken");
                drop(device);
                assert!(!interface.exists());
            }
            Err(error) => println!("not tested, no TUN here: {error}"),
        }
    }

    #[test]
    fn long_names_are_refused() {
        assert!(open("a-name-of-16-byte").is_err());
    }
}
