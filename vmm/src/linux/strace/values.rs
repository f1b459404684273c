//! How a value looks: numbers, texts and structures in the program's memory.
//!
//! What the program has there is anything at all. A place that cannot be read is told as its
//! address, and what could steer a terminal is escaped.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::names::{self, Names};
use super::signatures::Kind;
use crate::linux::signal::name::signal_name;
use crate::user_memory::UserMemory;

/// Bytes of a text that are shown, as strace does.
const TEXT_BYTES: u64 = 32;
/// Elements of an array that are shown.
const ELEMENTS: u64 = 16;

/// A call's arguments, and what it returned if it has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) user: UserMemory<'a>,
    pub(super) args: &'a [u64; 6],
    /// What it returned; negative for an error. 0 before its end.
    pub(super) result: i64,
}

impl Values<'_> {
    /// Argument `index`, which is a `kind`.
    pub(super) fn render(&self, kind: Kind, index: usize) -> String {
        let word = self.arg(index);
        if kind.is_filled() && (self.result < 0 || word == 0) {
            return pointer(word);
        }
        match kind {
            Kind::Int => format!("{}", word as i64 as i32),
            Kind::Uint => format!("{word}"),
            Kind::Hex => format!("{word:#x}"),
            Kind::Ptr => pointer(word),
            Kind::Mode => octal(word as u32),
            Kind::Fd if word as i32 == libc::AT_FDCWD => "AT_FDCWD".to_owned(),
            Kind::Fd => format!("{}", word as i32),
            Kind::Named(names) => names.render(word),
            Kind::Path => self.path(word),
            Kind::Strings => self.strings(word),
            Kind::Text(count) => self.text(word, self.arg(count)),
            Kind::Out => self.text(word, self.result as u64),
            Kind::Buffers { count, .. } => self.buffers(word, self.arg(count)),
            Kind::Signal => signal(word),
            Kind::Mask { .. } => self.or_pointer(word, |it| it.mask(word)),
            Kind::Action { .. } => self.or_pointer(word, |it| it.action(word)),
            Kind::Time { .. } => self.or_pointer(word, |it| {
                let [seconds, nanoseconds] = it.user.read_words(word).ok()?;
                Some(format!("{{tv_sec={}, tv_nsec={}}}", seconds as i64, nanoseconds as i64))
            }),
            Kind::WordOut => self.or_pointer(word, |it| {
                Some(format!("[{}]", it.user.read_u32(word).ok()?.cast_signed()))
            }),
            Kind::Pair => self.or_pointer(word, |it| {
                let both = it.user.read_u64(word).ok()?;
                Some(format!("[{}, {}]", both as i32, (both >> 32) as i32))
            }),
            Kind::Stat => self.or_pointer(word, |it| it.stat(word)),
            Kind::Polls(count) => self.polls(word, self.arg(count)),
            Kind::Event => self.or_pointer(word, |it| it.event(word)),
            Kind::Events => self.array(word, self.result as u64, 12, |it, at| it.event(at)),
            Kind::Address(count) => self.or_pointer(word, |it| it.address(word, it.arg(count))),
        }
    }

    fn arg(&self, index: usize) -> u64 {
        self.args.get(index).copied().unwrap_or_default()
    }

    /// `read`, or the address if that is null or nothing can be read there.
    fn or_pointer(&self, at: u64, read: impl FnOnce(&Self) -> Option<String>) -> String {
        let known = if at == 0 { None } else { read(self) };
        known.unwrap_or_else(|| pointer(at))
    }

    fn array(
        &self,
        at: u64,
        count: u64,
        bytes_each: u64,
        one: impl Fn(&Self, u64) -> Option<String>,
    ) -> String {
        if at == 0 {
            return pointer(at);
        }
        let mut parts = Vec::new();
        for index in 0..count.min(ELEMENTS) {
            let Some(part) = one(self, at.wrapping_add(index * bytes_each)) else {
                return pointer(at);
            };
            parts.push(part);
        }
        if count > ELEMENTS {
            parts.push("...".to_owned());
        }
        format!("[{}]", parts.join(", "))
    }

    fn path(&self, at: u64) -> String {
        self.or_pointer(at, |it| it.user.read_path(at).ok().map(|path| quoted(&path)))
    }

    fn strings(&self, at: u64) -> String {
        self.or_pointer(at, |it| {
            let mut count = 0;
            while count <= ELEMENTS && it.user.read_u64(at.wrapping_add(count * 8)).ok()? != 0 {
                count += 1;
            }
            Some(it.array(at, count, 8, |it, at| it.user.read_u64(at).ok().map(|at| it.path(at))))
        })
    }

    fn text(&self, at: u64, bytes: u64) -> String {
        self.or_pointer(at, |it| {
            let mut shown = vec![0; bytes.min(TEXT_BYTES) as usize];
            it.user.copy_in(at, &mut shown).ok()?;
            let more = if bytes > TEXT_BYTES { "..." } else { "" };
            Some(quoted(&shown) + more)
        })
    }

    fn buffers(&self, at: u64, count: u64) -> String {
        self.array(at, count, 16, |it, at| {
            let [base, bytes] = it.user.read_words(at).ok()?;
            Some(format!("{{iov_base={}, iov_len={bytes}}}", it.text(base, bytes)))
        })
    }

    fn mask(&self, at: u64) -> Option<String> {
        Some(mask(self.user.read_u64(at).ok()?))
    }

    fn action(&self, at: u64) -> Option<String> {
        let [handler, flags, _, masked] = self.user.read_words(at).ok()?;
        let handler = match handler {
            0 => "SIG_DFL".to_owned(),
            1 => "SIG_IGN".to_owned(),
            _ => pointer(handler),
        };
        // SA_RESTORER, which every C library sets and no program asks for, is left out.
        const SA_RESTORER: u64 = 0x0400_0000;
        let flags = named("action", flags & !SA_RESTORER);
        let masked = mask(masked);
        Some(format!("{{sa_handler={handler}, sa_mask={masked}, sa_flags={flags}}}"))
    }

    /// The words of `struct stat` that people look at: mode at 24, size at 48.
    fn stat(&self, at: u64) -> Option<String> {
        let mode = self.user.read_u32(at.wrapping_add(24)).ok()?;
        let size = self.user.read_u64(at.wrapping_add(48)).ok()?;
        let kind = u64::from(mode & libc::S_IFMT);
        let kind = named("file_type", kind);
        let mode = octal(mode & !libc::S_IFMT);
        Some(format!("{{st_mode={kind}|{mode}, st_size={size}, ...}}"))
    }

    fn polls(&self, at: u64, count: u64) -> String {
        self.array(at, count, 8, |it, at| {
            let word = it.user.read_u64(at).ok()?;
            let events = named("poll", word >> 32 & 0xffff);
            Some(format!("{{fd={}, events={events}}}", word as i32))
        })
    }

    /// What happened, for the end of a call that polls.
    pub(super) fn polled(&self, index: usize, count: usize) -> Option<String> {
        let at = self.arg(index);
        let mut parts = Vec::new();
        for index in 0..self.arg(count).min(ELEMENTS) {
            let word = self.user.read_u64(at.wrapping_add(index * 8)).ok()?;
            if word >> 48 != 0 {
                let events = named("poll", word >> 48);
                parts.push(format!("{{fd={}, revents={events}}}", word as i32));
            }
        }
        Some(format!("[{}]", parts.join(", ")))
    }

    fn event(&self, at: u64) -> Option<String> {
        let events = named("epoll", u64::from(self.user.read_u32(at).ok()?));
        let data = self.user.read_u64(at.wrapping_add(4)).ok()?;
        Some(format!("{{events={events}, data={data:#x}}}"))
    }

    fn address(&self, at: u64, bytes: u64) -> Option<String> {
        /// The longest there is (`struct sockaddr_storage`).
        const BYTES: u64 = 128;
        let mut given = vec![0; bytes.min(BYTES) as usize];
        self.user.copy_in(at, &mut given).ok()?;
        let family = u16::from_le_bytes(given.get(..2)?.try_into().ok()?);
        let port = |given: &[u8]| Some(u16::from_be_bytes(given.get(2..4)?.try_into().ok()?));
        let family_name = named("family", family.into());
        Some(match i32::from(family) {
            libc::AF_UNIX => {
                let path = given.get(2..).unwrap_or_default();
                let end = path.iter().skip(1).position(|byte| *byte == 0).map(|end| end + 1);
                let path = path.get(..end.unwrap_or(path.len())).unwrap_or_default();
                match path.split_first() {
                    Some((0, name)) => format!("{{{family_name}, \"@\"{}}}", quoted(name)),
                    _ => format!("{{{family_name}, {}}}", quoted(path)),
                }
            }
            libc::AF_INET => {
                let address: [u8; 4] = given.get(4..8)?.try_into().ok()?;
                let address = std::net::Ipv4Addr::from(address);
                format!("{{{family_name}, {address}:{}}}", port(&given)?)
            }
            libc::AF_INET6 => {
                let address: [u8; 16] = given.get(8..24)?.try_into().ok()?;
                let address = std::net::Ipv6Addr::from(address);
                format!("{{{family_name}, [{address}]:{}}}", port(&given)?)
            }
            _ => format!("{{{family_name}, ...}}"),
        })
    }
}

fn named(name: &str, word: u64) -> String {
    names::by_name(name).map_or_else(|| format!("{word:#x}"), |names: &Names| names.render(word))
}

/// An address.
pub(super) fn pointer(word: u64) -> String {
    if word == 0 { "NULL".to_owned() } else { format!("{word:#x}") }
}

/// In octal, as C writes it.
fn octal(mode: u32) -> String {
    if mode == 0 { "0".to_owned() } else { format!("0{mode:o}") }
}

fn signal(word: u64) -> String {
    match u8::try_from(word as u32) {
        Ok(number @ 1..=31) => signal_name(number),
        Ok(number @ 32..=64) => format!("SIGRT_{}", number - 32),
        _ => format!("{}", word as i32),
    }
}

fn mask(set: u64) -> String {
    // Most signals: told by those that are not in it, as strace does.
    let (sign, set) = if set.count_ones() > 32 { ("~", !set) } else { ("", set) };
    let names = (1..=64).filter(|number| set >> (number - 1) & 1 != 0).map(|number| {
        let name = signal(number);
        name.strip_prefix("SIG").unwrap_or(&name).to_owned()
    });
    format!("{sign}[{}]", names.collect::<Vec<_>>().join(" "))
}

/// The bytes as a C string: nothing in it steers a terminal.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for (index, byte) in bytes.iter().enumerate() {
        // An octal escape takes up to three digits: with all three, none that follows is taken.
        let digit_follows = bytes.get(index + 1).is_some_and(u8::is_ascii_digit);
        let _infallible = match *byte {
            b'"' => write!(text, "\\\""),
            b'\\' => write!(text, "\\\\"),
            b'\n' => write!(text, "\\n"),
            b'\t' => write!(text, "\\t"),
            b'\r' => write!(text, "\\r"),
            b' '..=b'~' => write!(text, "{}", char::from(*byte)),
            byte if digit_follows => write!(text, "\\{byte:03o}"),
            byte => write!(text, "\\{byte:o}"),
        };
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::{mask, quoted, signal};

    #[test]
    fn a_text_cannot_steer_a_terminal() {
        assert_eq!(quoted(b"a\x1b[2J\"\\\n\x001\xff"), r#""a\33[2J\"\\\n\0001\377""#);
        let all: Vec<u8> = (0..=255).collect();
        assert!(quoted(&all).bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }

    #[test]
    fn a_set_of_most_signals_is_told_by_the_others() {
        assert_eq!(mask(0), "[]");
        assert_eq!(mask(1 << 9 | 1 << 16), "[USR1 CHLD]");
        assert_eq!(mask(!0), "~[]");
        assert_eq!(mask(!(1 << 8)), "~[KILL]");
        assert_eq!(signal(34), "SIGRT_2");
        assert_eq!(signal(0), "0");
    }
}
