//! Messages to the host kernel's tables of addresses and routes: questions only.
#![forbid(unsafe_code)]

/// Bytes of a header: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// The first type of a route message; of every four the third asks (`RTM_GET...`).
const FIRST_TYPE: u16 = 16;
const ASKS: u16 = 2;

/// Whether there is nothing but questions in `bytes`: the host reads one message after the other, up to
/// what is no whole header.
#[must_use]
pub fn is_query(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let Some(&[a, b, c, d, low, high]) = rest.first_chunk() else { return false };
        let (len, kind) =
            (u32::from_ne_bytes([a, b, c, d]) as usize, u16::from_ne_bytes([low, high]));
        if !(HEADER..=rest.len()).contains(&len) {
            return false;
        }
        if kind < FIRST_TYPE || (kind - FIRST_TYPE) % 4 != ASKS {
            return false;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, extra: usize) -> Vec<u8> {
        let len = (HEADER + extra) as u32;
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        bytes.resize(bytes.len() + extra, 0);
        bytes
    }

    #[test]
    fn only_questions_are_let_through_and_each_message_is_looked_at() {
        let ask = |kind| is_query(&message(kind, 4));
        assert!(ask(libc::RTM_GETLINK) && ask(libc::RTM_GETADDR) && ask(libc::RTM_GETROUTE));
        for changes in [libc::RTM_NEWLINK, libc::RTM_DELADDR, libc::RTM_SETLINK, 0, 2, 15] {
            assert!(!ask(changes), "{changes}");
        }
        let get = message(libc::RTM_GETADDR, 1);
        let hidden = [&get[..], &[0; 3], &message(libc::RTM_NEWADDR, 0)].concat();
        assert!(!is_query(&hidden), "after padding");
        assert!(is_query(&[&get[..], &[0; 3], &message(libc::RTM_GETLINK, 0)].concat()));
    }

    #[test]
    fn a_length_that_does_not_fit_is_no_question() {
        let mut bytes = message(libc::RTM_GETADDR, 4);
        for len in [0, 15, 21, u32::MAX] {
            bytes[..4].copy_from_slice(&u32::to_ne_bytes(len));
            assert!(!is_query(&bytes), "{len}");
        }
    }
}
