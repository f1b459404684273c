//! Names and foreign bytes as text: one line, without control sequences for a terminal.

use std::fmt::Write;

/// Control characters and `%` as `%xx`, so that a name is always one line.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_control() || c == '%' {
            let _ = write!(out, "%{:02x}", u32::from(c));
        } else if c.is_control() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "%{byte:02x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The bytes `escape` was given; `None` for a `%` without two hexadecimal digits.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: u8| char::from(b).to_digit(16);
        let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
        out.push(u8::try_from(value).ok()?);
    }
    Some(out)
}

/// How a file begins, for messages.
pub(crate) fn show_bytes(bytes: &[u8]) -> String {
    let first = bytes.get(..16).unwrap_or(bytes);
    if first.is_empty() { "nothing".into() } else { format!("\"{}\"", first.escape_ascii()) }
}

/// Foreign text for a message: bounded, without control characters.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("'{}'", escape(&short))
}

/// 16 lower-case hexadecimal digits.
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_survives_escaping_in_one_line(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert_eq!(escaped.lines().count() <= 1, true);
            prop_assert_eq!(unescape(&escaped).unwrap(), text.as_bytes());
        }

        #[test]
        fn unescaping_never_panics(text in "[%0-9a-f\u{e9}]{0,12}") {
            let _ = unescape(&text);
        }
    }

    #[test]
    fn ids_have_exactly_one_spelling() {
        assert_eq!(parse_id("00000000000000ff"), Some(255));
        for bad in ["ff", "00000000000000FF", "+0000000000000ff", "00000000000000ff0", ""] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}
