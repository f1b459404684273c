//! Names of sockets: from the program's bytes to a value that can be checked, and from that to the bytes for
//! the host, which never gets the program's own.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use abi::Errno;

/// Bytes of a `sockaddr_in`, of a `sockaddr_in6` before it had a scope, and with one, of a
/// `sockaddr_un` and of a `sockaddr_nl`.
pub(super) const V4_BYTES: usize = 16;
pub(super) const V6_OLD_BYTES: usize = 24;
const V6_BYTES: usize = 28;
const UNIX_BYTES: usize = 110;
const NETLINK_BYTES: usize = 12;

/// The name of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `AF_UNSPEC`: to `connect`, none at all.
    Unspecified,
    /// An address and a port.
    Internet(SocketAddr),
    /// A UNIX socket without a name.
    Unnamed,
    /// A UNIX socket in a directory.
    Path(Vec<u8>),
    /// A UNIX socket in the name space of the network.
    Abstract(Vec<u8>),
    /// A port of the kernel's, and groups.
    Netlink {
        /// 0 is the kernel.
        port: u32,
        /// A set of bits.
        groups: u32,
    },
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// What the bytes name, for a socket of the family `domain` that sends there or is bound; `connect` takes
/// whatever has no family for no address.
///
/// # Errors
/// `EINVAL` for bytes that are too few or too many, `EAFNOSUPPORT` for another family.
pub fn decode(bytes: &[u8], domain: i32) -> Result<Address, Errno> {
    let family = i32::from(u16::from_ne_bytes(take(bytes, 0).ok_or(Errno::EINVAL)?));
    let invalid = || Errno::EINVAL;
    match family {
        // A socket of IPv4 takes a whole address for its own, whatever the family says, when it sends.
        libc::AF_UNSPEC if domain == libc::AF_INET && bytes.len() >= V4_BYTES => {
            v4(bytes).ok_or_else(invalid)
        }
        libc::AF_UNSPEC => Ok(Address::Unspecified),
        libc::AF_INET => v4(bytes).ok_or_else(invalid),
        libc::AF_INET6 if domain == libc::AF_INET => Err(Errno::from_raw(libc::EAFNOSUPPORT)),
        libc::AF_INET6 => v6(bytes).ok_or_else(invalid),
        libc::AF_UNIX => unix(bytes).ok_or_else(invalid),
        libc::AF_NETLINK if bytes.len() >= NETLINK_BYTES => {
            let word = |at| take(bytes, at).map(u32::from_ne_bytes).ok_or_else(invalid);
            Ok(Address::Netlink { port: word(4)?, groups: word(8)? })
        }
        libc::AF_NETLINK => Err(Errno::EINVAL),
        _ => Err(Errno::from_raw(libc::EAFNOSUPPORT)),
    }
}

fn v4(bytes: &[u8]) -> Option<Address> {
    bytes.get(..V4_BYTES)?;
    let (port, address) = (take(bytes, 2)?, take::<4>(bytes, 4)?);
    let address = SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port));
    Some(Address::Internet(address.into()))
}

fn v6(bytes: &[u8]) -> Option<Address> {
    bytes.get(..V6_OLD_BYTES)?;
    let (port, flow, address) = (take(bytes, 2)?, take(bytes, 4)?, take::<16>(bytes, 8)?);
    let scope = match bytes.len() {
        V6_BYTES.. => u32::from_ne_bytes(take(bytes, 24)?),
        _ => 0,
    };
    let (port, flow) = (u16::from_be_bytes(port), u32::from_ne_bytes(flow));
    Some(Address::Internet(SocketAddrV6::new(Ipv6Addr::from(address), port, flow, scope).into()))
}

fn unix(bytes: &[u8]) -> Option<Address> {
    if bytes.len() > UNIX_BYTES {
        return None;
    }
    Some(match bytes.get(2..)? {
        [] => Address::Unnamed,
        [0, name @ ..] => Address::Abstract(name.to_vec()),
        name => Address::Path(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
    })
}

/// The bytes for the host, or for the program.
#[must_use]
pub fn encode(address: &Address) -> Vec<u8> {
    let family = |family: i32| (family as u16).to_ne_bytes();
    match address {
        Address::Unspecified => family(libc::AF_UNSPEC).to_vec(),
        Address::Internet(SocketAddr::V4(v4)) => {
            let (port, ip) = (v4.port().to_be_bytes(), v4.ip().octets());
            [&family(libc::AF_INET)[..], &port, &ip, &[0; 8]].concat()
        }
        Address::Internet(SocketAddr::V6(v6)) => {
            let (port, flow) = (v6.port().to_be_bytes(), v6.flowinfo().to_ne_bytes());
            let scope = v6.scope_id().to_ne_bytes();
            [&family(libc::AF_INET6)[..], &port, &flow, &v6.ip().octets(), &scope].concat()
        }
        Address::Unnamed => family(libc::AF_UNIX).to_vec(),
        // Linux itself tells the NUL, where there is room for it.
        Address::Path(path) => [&family(libc::AF_UNIX)[..], path, &[0]].concat(),
        Address::Abstract(name) => [&family(libc::AF_UNIX)[..], &[0], name].concat(),
        Address::Netlink { port, groups } => {
            let (port, groups) = (port.to_ne_bytes(), groups.to_ne_bytes());
            [&family(libc::AF_NETLINK)[..], &[0; 2], &port, &groups].concat()
        }
    }
}

/// Where something that is sent to `to` arrives: the unspecified address is this machine, by loopback,
/// whichever address the socket itself has.
#[must_use]
pub fn destination(to: SocketAddr) -> SocketAddr {
    let mut to = to;
    match to.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => to.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => to.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some_and(|ip| ip.is_unspecified()) => {
            to.set_ip(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into());
        }
        _ => {}
    }
    to
}

/// An address and a port in the form that grants are compared with: IPv4 as such, also in IPv6's form.
#[must_use]
pub fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internet(text: &str) -> Address {
        Address::Internet(text.parse().unwrap())
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for address in [
            internet("127.0.0.1:80"),
            internet("[2001:db8::1]:443"),
            Address::Unnamed,
            Address::Path(b"/run/x".to_vec()),
            Address::Abstract(b"a\0b".to_vec()),
            Address::Netlink { port: 7, groups: 9 },
        ] {
            assert_eq!(decode(&encode(&address), libc::AF_INET6), Ok(address));
        }
        assert_eq!(decode(&[0, 0], libc::AF_INET), Ok(Address::Unspecified));
    }

    #[test]
    fn an_address_without_a_family_is_ipv4s_where_linux_takes_it_for_that() {
        let mut bytes = encode(&internet("10.1.2.3:53"));
        bytes[0] = 0;
        assert_eq!(decode(&bytes, libc::AF_INET), Ok(internet("10.1.2.3:53")));
        assert_eq!(decode(&bytes, libc::AF_INET6), Ok(Address::Unspecified));
    }

    #[test]
    fn too_few_bytes_and_too_many_are_refused() {
        let v4 = encode(&internet("127.0.0.1:80"));
        let v6 = encode(&internet("[::1]:80"));
        assert_eq!(decode(&v6, libc::AF_INET), Err(Errno::from_raw(libc::EAFNOSUPPORT)));
        let domain = libc::AF_INET6;
        for len in 0..16 {
            assert_eq!(decode(&v4[..len], domain), Err(Errno::EINVAL), "{len}");
        }
        for len in 0..24 {
            assert_eq!(decode(&v6[..len], domain), Err(Errno::EINVAL), "{len}");
        }
        assert_eq!(decode(&v6[..24], domain), Ok(internet("[::1]:80")));
        let long = [&[1, 0][..], &[b'x'; 109]].concat();
        assert_eq!(decode(&long, domain), Err(Errno::EINVAL));
        assert!(decode(&long[..110], domain).is_ok());
        assert_eq!(decode(&[77, 0], domain), Err(Errno::from_raw(libc::EAFNOSUPPORT)));
    }

    #[test]
    fn the_unspecified_address_is_loopback_in_each_form() {
        for (to, at) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("[::ffff:0.0.0.0]:1", "[::ffff:127.0.0.1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(destination(to.parse().unwrap()), at.parse().unwrap());
        }
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:5".parse().unwrap();
        assert_eq!(canonical(mapped), (Ipv4Addr::new(10, 0, 0, 1).into(), 5));
    }
}
