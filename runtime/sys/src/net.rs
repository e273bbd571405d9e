//! The little of networks that needs no netlink.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Context, Errno, Result};

/// Sets the loopback device of our network namespace up; the kernel gives it its addresses.
pub fn loopback_up() -> Result<()> {
    // Any socket will do for device ioctls; this family is always there.
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .of("socket", || "AF_UNIX, SOCK_DGRAM")?;
    // SAFETY: ifreq is plain data; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of our ifreq.
    let got = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
    Errno::result(got).of("ioctl", || "SIOCGIFFLAGS, lo")?;
    // SAFETY: the flags are what the ioctl before has written.
    unsafe { request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads name and flags of our ifreq.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Errno::result(set).map(drop).of("ioctl", || "SIOCSIFFLAGS, lo up")
}

/// A socket of a transport (`IPPROTO_TCP`, `_UDP`, `_SCTP`) bound to an address, not listening. With `both`, a socket of IPv6
/// takes the port of IPv4, too.
pub fn bind(protocol: u8, address: std::net::SocketAddr, both: bool) -> Result<std::os::fd::OwnedFd> {
    let name = || format!("{address}, protocol {protocol}");
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = if i32::from(protocol) == libc::IPPROTO_UDP { SocketType::DGRAM } else { SocketType::STREAM };
    let number = std::num::NonZeroU32::new(u32::from(protocol)).map(rustix::net::Protocol::from_raw);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, number).of("socket", name)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, !both).of("setsockopt", || "IPV6_V6ONLY")?;
    }
    rustix::net::bind(&socket, &address).of("bind", name)?;
    Ok(socket)
}
