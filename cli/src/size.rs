//! Sizes on the command line: a number with a unit of 1024s.
#![forbid(unsafe_code)]

/// `512M`, `4G`, `16777216`: bytes, `u64::MAX` for more than that; `None` for an invalid size.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    Some(number.saturating_mul(1 << shift))
}
