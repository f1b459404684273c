//! Numbers with their nouns, for messages.

/// `1 segment`, `2 segments`, `0 VASes`: `count` of what `noun`, a regular one, names.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ if noun.ends_with(['S', 's', 'x']) => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn a_noun_agrees_with_its_number() {
        assert_eq!(counted(0, "VAS"), "0 VASes");
        assert_eq!(counted(1, "VAS"), "1 VAS");
        assert_eq!(counted(1, "segment"), "1 segment");
        assert_eq!(counted(u64::MAX, "byte"), "18446744073709551615 bytes");
    }
}
