//! Control messages (`cmsg(3)`): from the program's bytes to a list, and back. What may be sent is
//! decided here; descriptors are still numbers.
#![forbid(unsafe_code)]

use abi::Errno;

/// Bytes of a header: length, level, type.
const HEADER: usize = 16;
/// Descriptors in one message (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;
/// Bytes of all of them together that are looked at: some 20 messages more than any program sends.
pub const CONTROL_MAX: usize = 8192;

const SCM_RIGHTS: i32 = libc::SCM_RIGHTS;
const SCM_CREDENTIALS: i32 = libc::SCM_CREDENTIALS;
const UDP_SEGMENT: i32 = 103;

/// One control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Descriptors.
    Rights(Vec<i32>),
    /// Process, user and group.
    Credentials([u32; 3]),
    /// Another one, passed on as it is.
    Other {
        /// Of the protocol.
        level: i32,
        /// Its type.
        kind: i32,
        /// Its content.
        data: Vec<u8>,
    },
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn numbers(data: &[u8]) -> Vec<i32> {
    data.as_chunks().0.iter().map(|bytes| i32::from_ne_bytes(*bytes)).collect()
}

/// The messages in `bytes`, up to what is no whole header.
///
/// # Errors
/// `EINVAL` for a length that does not fit.
pub fn decode(bytes: &[u8]) -> Result<Vec<Control>, Errno> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let len = rest.first_chunk().map(|len| u64::from_ne_bytes(*len)).unwrap_or_default();
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let data = rest.get(HEADER..len).ok_or(Errno::EINVAL)?;
        let (level, kind) = number(rest, 8).zip(number(rest, 12)).ok_or(Errno::EINVAL)?;
        all.push(match (level, kind) {
            (libc::SOL_SOCKET, SCM_RIGHTS) => Control::Rights(numbers(data)),
            (libc::SOL_SOCKET, SCM_CREDENTIALS) => match numbers(data)[..] {
                [pid, uid, gid] if data.len() == 12 => {
                    Control::Credentials([pid, uid, gid].map(i32::cast_unsigned))
                }
                _ => return Err(Errno::EINVAL),
            },
            _ => Control::Other { level, kind, data: data.to_vec() },
        });
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(all)
}

/// Appends one message, padded.
pub fn encode(message: &Control, to: &mut Vec<u8>) {
    let (level, kind, data) = match message {
        Control::Rights(fds) => {
            let data = fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
            (libc::SOL_SOCKET, SCM_RIGHTS, data)
        }
        Control::Credentials(ids) => {
            let data = ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
            (libc::SOL_SOCKET, SCM_CREDENTIALS, data)
        }
        Control::Other { level, kind, data } => (*level, *kind, data.clone()),
    };
    to.extend((HEADER as u64 + data.len() as u64).to_ne_bytes());
    to.extend(level.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(&data);
    to.resize(to.len().next_multiple_of(8), 0);
}

/// Whether the program may send it: what changes where a packet goes (options of IP, headers for routing)
/// it may not.
#[must_use]
pub fn may_be_sent(message: &Control) -> bool {
    match message {
        Control::Rights(fds) => fds.len() <= DESCRIPTORS_MAX,
        Control::Credentials(_) => true,
        Control::Other { level, kind, .. } => matches!(
            (*level, *kind),
            (libc::IPPROTO_IP, libc::IP_TOS | libc::IP_TTL | libc::IP_PKTINFO)
                | (
                    libc::IPPROTO_IPV6,
                    libc::IPV6_PKTINFO | libc::IPV6_HOPLIMIT | libc::IPV6_TCLASS
                )
                | (libc::IPPROTO_UDP, UDP_SEGMENT)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Control> {
        let data = vec![1, 2, 3, 4];
        vec![
            Control::Rights(vec![3, 4, 5]),
            Control::Credentials([1, 2, 3]),
            Control::Other { level: libc::IPPROTO_IP, kind: libc::IP_TTL, data },
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        let mut bytes = Vec::new();
        all().iter().for_each(|message| encode(message, &mut bytes));
        assert_eq!(bytes.len(), 32 + 32 + 24);
        assert_eq!(decode(&bytes), Ok(all()));
        // Less than a header at the end is nothing.
        bytes.extend([1; 15]);
        assert_eq!(decode(&bytes), Ok(all()));
    }

    #[test]
    fn a_length_that_does_not_fit_is_refused() {
        let mut bytes = Vec::new();
        encode(&Control::Rights(vec![1]), &mut bytes);
        for len in [0, 1, 15, 25, 1 << 40, u64::MAX] {
            bytes[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(decode(&bytes), Err(Errno::EINVAL), "{len}");
        }
    }

    #[test]
    fn what_would_route_a_packet_is_not_sent() {
        let other = |level, kind| Control::Other { level, kind, data: Vec::new() };
        assert!(may_be_sent(&other(libc::IPPROTO_IP, libc::IP_TOS)));
        assert!(!may_be_sent(&other(libc::IPPROTO_IP, 7)), "IP_RETOPTS");
        assert!(!may_be_sent(&other(libc::IPPROTO_IPV6, 57)), "IPV6_RTHDR");
        assert!(!may_be_sent(&other(libc::SOL_SOCKET, libc::SO_MARK)));
        assert!(!may_be_sent(&Control::Rights(vec![0; 254])));
    }
}
