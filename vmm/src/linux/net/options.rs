//! `getsockopt` and `setsockopt`: the options that say how a socket works. Those that would decide where
//! its packets go, filter them, or need a privilege are not here; to the program they do not exist.
#![forbid(unsafe_code)]

use abi::Errno;

use super::{Args, Ctx, host, in_program, socket};
use crate::linux::{CallResult, done};

/// Bytes of a value: no option here has more.
const VALUE_MAX: usize = 512;

const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
const SOL_NETLINK: i32 = 270;
const UDP_CORK: i32 = 1;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_ADDR_PREFERENCES: i32 = 72;
const IPV6_DONTFRAG: i32 = 62;
const IPV6_RECVERR: i32 = 25;
const TCP_NOTSENT_LOWAT: i32 = 25;

/// What may be done with an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Option {
    /// Read.
    Get,
    /// Read and set.
    Both,
    /// Both, with `--net`: what comes from a group of receivers is from anywhere.
    Group,
}

fn option(level: i32, name: i32) -> std::option::Option<Option> {
    let socket = level == libc::SOL_SOCKET;
    Some(match (level, name) {
        _ if socket => match name {
            libc::SO_ERROR
            | libc::SO_TYPE
            | libc::SO_DOMAIN
            | libc::SO_PROTOCOL
            | libc::SO_ACCEPTCONN
            | libc::SO_PEERCRED
            | libc::SO_SNDLOWAT
            | libc::SO_INCOMING_CPU
            | libc::SO_COOKIE => Option::Get,
            libc::SO_REUSEADDR
            | libc::SO_REUSEPORT
            | libc::SO_KEEPALIVE
            | libc::SO_BROADCAST
            | libc::SO_LINGER
            | libc::SO_OOBINLINE
            | libc::SO_SNDBUF
            | libc::SO_RCVBUF
            | libc::SO_RCVTIMEO
            | libc::SO_SNDTIMEO
            | SO_RCVTIMEO_NEW
            | SO_SNDTIMEO_NEW
            | libc::SO_RCVLOWAT
            | libc::SO_TIMESTAMP
            | libc::SO_TIMESTAMPNS
            | libc::SO_PASSCRED
            | libc::SO_PRIORITY
            | libc::SO_DONTROUTE
            | libc::SO_RXQ_OVFL
            | libc::SO_PEEK_OFF => Option::Both,
            _ => return None,
        },
        (libc::IPPROTO_TCP, libc::TCP_INFO | libc::TCP_CONGESTION) => Option::Get,
        (
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY
            | libc::TCP_MAXSEG
            | libc::TCP_CORK
            | libc::TCP_KEEPIDLE
            | libc::TCP_KEEPINTVL
            | libc::TCP_KEEPCNT
            | libc::TCP_SYNCNT
            | libc::TCP_LINGER2
            | libc::TCP_DEFER_ACCEPT
            | libc::TCP_WINDOW_CLAMP
            | libc::TCP_QUICKACK
            | libc::TCP_USER_TIMEOUT
            | libc::TCP_FASTOPEN
            | libc::TCP_FASTOPEN_CONNECT
            | TCP_NOTSENT_LOWAT,
        )
        | (libc::IPPROTO_UDP, UDP_CORK | UDP_SEGMENT | UDP_GRO)
        | (
            libc::IPPROTO_IP,
            libc::IP_TOS
            | libc::IP_TTL
            | libc::IP_RECVTTL
            | libc::IP_RECVTOS
            | libc::IP_PKTINFO
            | libc::IP_RECVERR
            | libc::IP_MTU_DISCOVER
            | IP_BIND_ADDRESS_NO_PORT
            | libc::IP_MULTICAST_IF
            | libc::IP_MULTICAST_TTL
            | libc::IP_MULTICAST_LOOP,
        )
        | (
            libc::IPPROTO_IPV6,
            libc::IPV6_V6ONLY
            | libc::IPV6_UNICAST_HOPS
            | libc::IPV6_MULTICAST_IF
            | libc::IPV6_MULTICAST_HOPS
            | libc::IPV6_MULTICAST_LOOP
            | libc::IPV6_MTU_DISCOVER
            | IPV6_RECVERR
            | libc::IPV6_RECVPKTINFO
            | libc::IPV6_RECVHOPLIMIT
            | libc::IPV6_RECVTCLASS
            | libc::IPV6_TCLASS
            | IPV6_DONTFRAG
            | IPV6_AUTOFLOWLABEL
            | IPV6_ADDR_PREFERENCES,
        ) => Option::Both,
        (libc::IPPROTO_IP, libc::IP_MTU) | (libc::IPPROTO_IPV6, libc::IPV6_MTU) => Option::Get,
        (
            libc::IPPROTO_IP,
            libc::IP_ADD_MEMBERSHIP
            | libc::IP_DROP_MEMBERSHIP
            | libc::IP_ADD_SOURCE_MEMBERSHIP
            | libc::IP_DROP_SOURCE_MEMBERSHIP,
        )
        | (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP)
        // MCAST_JOIN_GROUP to MCAST_LEAVE_SOURCE_GROUP.
        | (libc::IPPROTO_IP | libc::IPPROTO_IPV6, 42..=47)
        // Such sockets are only there with `--net`.
        | (SOL_NETLINK, 1..=12) => Option::Group,
        _ => return None,
    })
}

/// A name that no option has.
const NO_NAME: i32 = i32::MAX;
const NO_OPTION: Errno = Errno::from_raw(libc::ENOPROTOOPT);

/// `getsockopt(2)`.
pub(in crate::linux) fn get(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    let [level, name] = [a[1] as i32, a[2] as i32];
    let room = ctx.user().read_u32(a[4])?.cast_signed();
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?.min(VALUE_MAX);
    if option(level, name).is_none() {
        // Whether the socket has the level at all, the host knows.
        let none = host::getsockopt(file.host_fd(), [level, NO_NAME], &mut [0; 4]);
        return Err(none.err().unwrap_or(NO_OPTION).into());
    }
    let mut value = vec![0; room];
    let len = host::getsockopt(file.host_fd(), [level, name], &mut value)?;
    value.truncate(len);
    if (level, name) == (libc::SOL_SOCKET, libc::SO_PEERCRED)
        && let Some(pid) = value.first_chunk_mut::<4>()
    {
        *pid = in_program(ctx, i32::from_ne_bytes(*pid)).to_ne_bytes();
    }
    ctx.user().copy_out(a[3], &value)?;
    done(ctx.user().copy_out(a[4], &(len as u32).to_ne_bytes()))
}

/// `setsockopt(2)`.
pub(in crate::linux) fn set(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    let [level, name] = [a[1] as i32, a[2] as i32];
    let len = usize::try_from(a[4] as i32).map_err(|_| Errno::EINVAL)?;
    match option(level, name) {
        Some(Option::Both) => {}
        Some(Option::Group) if ctx.process.network.grants.all => {}
        Some(Option::Group) => {
            ctx.process.network.refused(
                "receiving what is sent to a group of addresses is not granted: --net grants it",
            );
            return Err(Errno::EACCES.into());
        }
        // They can only be read.
        Some(Option::Get) | None => return Err(NO_OPTION.into()),
    }
    let mut value = vec![0; len.min(VALUE_MAX)];
    ctx.user().copy_in(a[3], &mut value)?;
    done(host::setsockopt(file.host_fd(), [level, name], &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_route_filter_or_need_a_privilege_is_no_option() {
        // IP_OPTIONS, IP_TRANSPARENT, IP_FREEBIND, IPV6_RTHDR, IPV6_ADDRFORM, TCP_REPAIR, TCP_ULP.
        for (level, name) in [
            (libc::SOL_SOCKET, libc::SO_MARK),
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE),
            (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
            (libc::IPPROTO_IP, 4),
            (libc::IPPROTO_IP, 19),
            (libc::IPPROTO_IP, 15),
            (libc::IPPROTO_IPV6, 57),
            (libc::IPPROTO_IPV6, 1),
            (libc::IPPROTO_TCP, 19),
            (libc::IPPROTO_TCP, 31),
        ] {
            assert_eq!(option(level, name), None, "{level} {name}");
        }
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_REUSEADDR), Some(Option::Both));
    }
}
