//! The frames of gdb's remote protocol: `$data#checksum`, acknowledged by `+`, and the byte by which gdb
//! interrupts the program (gdb's manual, "Overview" of the protocol).
#![forbid(unsafe_code)]

/// Bytes of a packet at most: more than that is no packet of ours.
pub(super) const PACKET_BYTES: usize = 0x8000;
/// By which a byte that has a meaning in the frame is escaped.
const ESCAPE: u8 = b'}';
const FLIPPED: u8 = 0x20;

/// What gdb has sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Received {
    /// A packet, without escapes.
    Packet(Vec<u8>),
    /// Ctrl-C.
    Interrupt,
    /// It did not receive the last packet well.
    Again,
    /// A packet with another checksum.
    Damaged,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Between,
    In,
    /// Behind the `#`, with the first digit.
    Sum(Option<u8>),
}

/// Takes bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
    raw: Vec<u8>,
}

impl Reader {
    /// One more byte, and what it completes.
    pub(super) fn take(&mut self, byte: u8) -> Option<Received> {
        match (&self.state, byte) {
            (State::Between, 0x03) => return Some(Received::Interrupt),
            (State::Between, b'-') => return Some(Received::Again),
            // Also in the middle of what was one: gdb has begun anew.
            (State::Between | State::In, b'$') => {
                self.raw.clear();
                self.state = State::In;
            }
            (State::Between, _) => {}
            (State::In, b'#') => self.state = State::Sum(None),
            (State::In, byte) => {
                self.raw.push(byte);
                if self.raw.len() > PACKET_BYTES {
                    self.state = State::Between;
                    return Some(Received::Damaged);
                }
            }
            (State::Sum(None), digit) => self.state = State::Sum(Some(digit)),
            (State::Sum(Some(first)), second) => {
                let sum = number(&[*first, second]);
                self.state = State::Between;
                let is_whole = sum == Some(u64::from(checksum(&self.raw)));
                return Some(match is_whole {
                    true => Received::Packet(unescaped(&self.raw)),
                    false => Received::Damaged,
                });
            }
        }
        None
    }
}

fn checksum(raw: &[u8]) -> u8 {
    raw.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            &ESCAPE => plain.extend(bytes.next().map(|byte| byte ^ FLIPPED)),
            byte => plain.push(*byte),
        }
    }
    plain
}

/// A packet with this content.
pub(super) fn frame(content: &[u8]) -> Vec<u8> {
    let mut raw = vec![b'$'];
    for byte in content {
        if matches!(byte, b'$' | b'#' | b'*' | &ESCAPE) {
            raw.extend([ESCAPE, byte ^ FLIPPED]);
        } else {
            raw.push(*byte);
        }
    }
    let sum = checksum(raw.get(1..).unwrap_or_default());
    raw.extend(format!("#{sum:02x}").bytes());
    raw
}

/// A hexadecimal number of 64 bits at most.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(u64::from);
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0, |number, byte| Some(number << 4 | digit(byte)?))
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// What [`hex`] has written.
pub(super) fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|pair| number(pair).map(|byte| byte as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::{PACKET_BYTES, Reader, Received, frame, hex, number, unhex};

    fn all(bytes: &[u8]) -> Vec<Received> {
        let mut reader = Reader::default();
        bytes.iter().filter_map(|byte| reader.take(*byte)).collect()
    }

    #[test]
    fn what_is_framed_is_read_back() {
        for content in [&b""[..], b"qC", b"a}b#c$d*e", &[0, 3, 0xff, b'}', b'-', b'+']] {
            assert_eq!(all(&frame(content)), [Received::Packet(content.to_vec())]);
        }
        assert_eq!(frame(b"OK"), b"$OK#9a");
    }

    #[test]
    fn damage_is_noticed_and_the_next_packet_is_read() {
        let bytes = [&b"+$OK#9b"[..], b"-\x03", b"$half", &frame(b"qC")].concat();
        let expected = [
            Received::Damaged,
            Received::Again,
            Received::Interrupt,
            Received::Packet(b"qC".to_vec()),
        ];
        assert_eq!(all(&bytes), expected);
        let long = [&b"$"[..], &vec![b'x'; 2 * PACKET_BYTES], &frame(b"qC")].concat();
        assert_eq!(all(&long), [Received::Damaged, Received::Packet(b"qC".to_vec())]);
    }

    #[test]
    fn numbers_are_of_64_bits() {
        assert_eq!(number(b"ffffffffffffffff"), Some(u64::MAX));
        for bad in [&b""[..], b"10000000000000000", b"-1", b"g", b" 1"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        assert_eq!(unhex(&hex(&[0, 0x7f, 0xff])), Some(vec![0, 0x7f, 0xff]));
        assert_eq!((unhex(b"123"), unhex(b"1x")), (None, None));
    }
}
