//! Patterns of keys and channels: `*`, `?`, `[a-z]`, `[^a]`, `\x`.

/// Whether `text` matches `pattern`. The time is bounded by the product of their lengths.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // After the last star: where the pattern goes on, and where the text would.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if t == text.len() {
            return p == pattern.len();
        }
        if p < pattern.len()
            && let (true, length) = one(&pattern[p..], text[t])
        {
            (p, t) = (p + length, t + 1);
            continue;
        }
        let Some((pattern_at, text_at)) = star else { return false };
        star = Some((pattern_at, text_at + 1));
        (p, t) = (pattern_at, text_at + 1);
    }
}

/// Whether a byte matches the first element of a pattern, and how long that is.
fn one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', escaped, ..] => (*escaped == byte, 2),
        [b'[', rest @ ..] => {
            let is_not = rest.first() == Some(&b'^');
            let mut at = usize::from(is_not);
            let mut is_in = false;
            loop {
                match rest.get(at..).unwrap_or_default() {
                    [b'\\', escaped, _, ..] => {
                        is_in |= *escaped == byte;
                        at += 2;
                    }
                    [b']', ..] => {
                        at += 1;
                        break;
                    }
                    [] => break,
                    [first, b'-', last, ..] => {
                        let (low, high) = (first.min(last), first.max(last));
                        is_in |= (low..=high).contains(&&byte);
                        at += 3;
                    }
                    [single, ..] => {
                        is_in |= *single == byte;
                        at += 1;
                    }
                }
            }
            (is_in != is_not, at + 1)
        }
        [single, ..] => (*single == byte, 1),
        [] => (false, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("h?llo", "hallo", true),
            ("h*llo", "heeello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab1", false),
            ("", "a", false),
            ("[", "[", false),
            ("[a", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        // Quadratic, not exponential.
        assert!(!matches("a*".repeat(40).as_bytes(), "b".repeat(10_000).as_bytes()));
    }
}
