//! The network namespace of a container: loopback, and nothing else.

use std::io;
use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketType};

use super::super::protocol::Network;
use super::failure::{Context as _, Failure};

/// Brings loopback up, with `::1` where the kernel has it. For silent peers their addresses lead
/// to loopback, where the kernel drops what is not for itself without an answer.
pub(super) fn make(network: Network) -> Result<(), Failure> {
    let action = "bring loopback up";
    // Where new namespaces come without it.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0");
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None);
    let socket = socket.because(action)?;
    // SAFETY: zero is a valid value of every field of this structure of the kernel.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is of the type that SIOCSIFFLAGS reads, and lives through the call.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    checked(set).because(action)?;
    if network == Network::SilentPeer {
        let address = |octets: [u8; 4]| {
            // SAFETY: zero is a valid value of every field.
            let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            address.sin_family = libc::AF_INET as libc::sa_family_t;
            address.sin_addr.s_addr = u32::from_ne_bytes(octets);
            // SAFETY: every `sockaddr_in` is a `sockaddr` of the same size.
            unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
        };
        let mut device = *b"lo\0";
        // SAFETY: zero is a valid value of every field.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = address([10, 255, 0, 0]);
        route.rt_genmask = address([255, 255, 0, 0]);
        route.rt_flags = libc::RTF_UP;
        route.rt_dev = device.as_mut_ptr().cast();
        // SAFETY: the route is of the type that SIOCADDRT reads; it and the name of its device live
        // through the call.
        let added = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &route) };
        checked(added).because("route to silent peers")?;
    }
    Ok(())
}

fn checked(code: i32) -> io::Result<()> {
    if code == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
