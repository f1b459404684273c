//! Splitting text into lower-case words.

/// Longer words are truncated to this: they are data, not words that a reader searches for.
pub(crate) const LONGEST_WORD: usize = 128;

/// Text in lower case. Bytes that are not UTF-8 become characters that separate words.
pub(crate) fn lower(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lower = String::with_capacity(text.len());
    // Line by line, since most lines are ASCII, for which there is a fast path.
    for line in text.split_inclusive('\n') {
        if line.is_ascii() {
            let start = lower.len();
            lower.push_str(line);
            lower[start..].make_ascii_lowercase();
        } else {
            lower.push_str(&line.to_lowercase());
        }
    }
    lower
}

/// The words of a text in lower case, and the number of newlines before each.
pub(crate) fn words(lower: &str) -> impl Iterator<Item = (&str, u32)> {
    (0..).zip(lower.split('\n')).flat_map(|(line, text)| {
        let runs = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let words = runs.filter(|word| !word.is_empty());
        words.map(move |word| (&word[..word.floor_char_boundary(LONGEST_WORD)], line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &[u8]) -> Vec<(String, u32)> {
        words(&lower(text)).map(|(word, line)| (word.to_owned(), line)).collect()
    }

    #[test]
    fn words_are_in_lower_case_and_know_their_line() {
        let mut text = b"One two_3,\nthree\r\n\n\xc3\x84rger na\xc3\xafve \xe6\x97\xa5\xe6\x9c\xac \xe2\x80\x94x".to_vec();
        text.extend_from_slice(b" bad\xffbytes \xe6\x97 cut \xc3\xc3\xa9t\xc3\xa9 end");
        let expected = [
            ("one", 0),
            ("two_3", 0),
            ("three", 1),
            ("\u{e4}rger", 3),
            ("na\u{ef}ve", 3),
            ("\u{65e5}\u{672c}", 3),
            ("x", 3),
            ("bad", 3),
            ("bytes", 3),
            ("cut", 3),
            ("\u{e9}t\u{e9}", 3),
            ("end", 3),
        ];
        assert_eq!(split(&text), expected.map(|(word, line)| (word.to_owned(), line)));
    }

    #[test]
    fn a_word_of_any_length_is_cut_between_characters() {
        let long = split("\u{65e5}".repeat(1000).as_bytes());
        assert_eq!(long, [("\u{65e5}".repeat(LONGEST_WORD / 3), 0)]);
        assert_eq!(split(&[b'a'; 100_000])[0].0.len(), LONGEST_WORD);
    }
}
