//! Requests as they come over a connection: RESP arrays of bulk strings, and inline commands.
//!
//! The bytes are a stranger's. A parser keeps what it has seen of an unfinished request, so that a
//! request in many pieces is read once, and it allocates for what has arrived, not for what is
//! announced.

/// What a connection may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest argument.
    pub bulk: usize,
    /// The most arguments of a request.
    pub count: usize,
    /// The longest unfinished request.
    pub query: usize,
}

impl Limits {
    /// Of those who have given a password, or need none.
    pub const KNOWN: Limits = Limits { bulk: 512 << 20, count: 1 << 20, query: 1 << 30 };
    /// Of those who have not.
    pub const STRANGER: Limits = Limits { bulk: 16 << 10, count: 10, query: 64 << 10 };
}

/// The longest line: an inline command, or a length.
const LINE: usize = 64 << 10;

/// The words of a request.
pub type Words = Vec<Vec<u8>>;

/// Bytes that have arrived, of which requests are taken.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: Vec<u8>,
    /// What is before it has been taken.
    start: usize,
    /// Of an unfinished array: where its next word begins, how many are missing, and those there are.
    words: Option<(usize, usize, Words)>,
    /// How many bytes of it were forgotten, as they are among its words.
    forgotten: usize,
}

impl Parser {
    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The next whole request; `None` if more bytes must arrive. One without words is none.
    ///
    /// # Errors
    /// What was sent is no request; nothing that follows can be understood.
    pub fn next(&mut self, limits: Limits) -> Result<Option<Words>, String> {
        loop {
            if self.words.is_none() {
                if self.start == self.bytes.len() {
                    self.bytes.clear();
                    self.start = 0;
                    return Ok(None);
                }
                if self.bytes[self.start] != b'*' {
                    let Some(words) = self.inline()? else { return self.unfinished(limits) };
                    if words.is_empty() {
                        continue;
                    }
                    return Ok(Some(words));
                }
                let Some((line, after)) = self.line(self.start, "too big mbulk count string")?
                else {
                    return self.unfinished(limits);
                };
                let count = integer(&self.bytes[line + 1..after - 2])
                    .filter(|count| *count <= 1 << 20)
                    .ok_or("invalid multibulk length")?;
                let count = usize::try_from(count).unwrap_or(0);
                if count > limits.count {
                    return Err("unauthenticated multibulk length".to_owned());
                }
                if count == 0 {
                    self.start = after;
                    continue;
                }
                self.words = Some((after, count, Words::new()));
            }
            return match self.word(limits)? {
                Some(words) => Ok(Some(words)),
                None => self.unfinished(limits),
            };
        }
    }

    /// The rest of the words of an array.
    fn word(&mut self, limits: Limits) -> Result<Option<Words>, String> {
        while let Some((at, missing, words)) = self.words.take() {
            if missing == 0 {
                (self.start, self.forgotten) = (at, 0);
                return Ok(Some(words));
            }
            let kept = Some((at, missing, words));
            let Some((line, after)) = self.line(at, "too big bulk count string")? else {
                self.words = kept;
                return Ok(None);
            };
            if self.bytes[line] != b'$' {
                let got = char::from(self.bytes[line]);
                return Err(format!("expected '$', got '{}'", got.escape_default()));
            }
            let length = integer(&self.bytes[line + 1..after - 2]).filter(|&length| length >= 0);
            let length = length
                .and_then(|length| usize::try_from(length).ok())
                .filter(|&length| length <= Limits::KNOWN.bulk)
                .ok_or("invalid bulk length")?;
            if length > limits.bulk {
                let is_strange = limits == Limits::STRANGER;
                let kind = if is_strange { "unauthenticated" } else { "invalid" };
                return Err(format!("{kind} bulk length"));
            }
            self.words = kept;
            if self.bytes.len() < after + length + 2 {
                return Ok(None);
            }
            let word = self.bytes[after..after + length].to_vec();
            if let Some((at, missing, words)) = &mut self.words {
                words.push(word);
                *missing -= 1;
                *at = after + length + 2;
            }
        }
        Ok(None)
    }

    /// The first and the last but one byte's places of a line that begins at `from`.
    fn line(&self, from: usize, too_long: &str) -> Result<Option<(usize, usize)>, String> {
        let rest = &self.bytes[from..];
        match rest.iter().take(LINE).position(|&byte| byte == b'\r') {
            Some(end) if end + 1 < rest.len() => {
                // A line without a first byte is no line of an array.
                if end == 0 {
                    return Err("expected '$', got '\\r'".to_owned());
                }
                Ok(Some((from, from + end + 2)))
            }
            Some(_) => Ok(None),
            None if rest.len() > LINE => Err(too_long.to_owned()),
            None => Ok(None),
        }
    }

    fn inline(&mut self) -> Result<Option<Words>, String> {
        let rest = &self.bytes[self.start..];
        let Some(end) = rest.iter().take(LINE).position(|&byte| byte == b'\n') else {
            if rest.len() > LINE {
                return Err("too big inline request".to_owned());
            }
            return Ok(None);
        };
        let line = &rest[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let words = split(line).ok_or("unbalanced quotes in request")?;
        self.start += end + 1;
        Ok(Some(words))
    }

    /// More must arrive. What was taken is forgotten once it is more than what is left.
    fn unfinished(&mut self, limits: Limits) -> Result<Option<Words>, String> {
        if self.waiting() + self.forgotten > limits.query {
            return Err("too large a request".to_owned());
        }
        // The words that are complete need not be kept as bytes.
        let taken = self.words.as_ref().map_or(self.start, |(at, _, _)| *at).min(self.bytes.len());
        if taken > self.bytes.len() / 2 {
            self.bytes.drain(..taken);
            self.forgotten += taken - self.start;
            self.start = 0;
            if let Some((at, _, _)) = &mut self.words {
                *at -= taken;
            }
        }
        Ok(None)
    }
}

/// A decimal number as Redis takes it: no plus sign, no zero in front, no minus zero.
#[must_use]
pub fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_plain = match digits {
        b"0" => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if is_plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// The words of a line, which may be quoted as in `redis-cli`; `None` if a quote does not end.
#[must_use]
pub fn split(line: &[u8]) -> Option<Words> {
    let mut words = Words::new();
    let mut rest = line.trim_ascii_start();
    while let Some((&first, after)) = rest.split_first() {
        let mut word = Vec::new();
        if first == b'"' || first == b'\'' {
            rest = quoted(first, after, &mut word)?;
            if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                return None;
            }
        } else {
            while let Some((&byte, after)) = rest.split_first() {
                if byte.is_ascii_whitespace() || byte == 0 {
                    break;
                }
                if byte == b'"' || byte == b'\'' {
                    rest = quoted(byte, after, &mut word)?;
                    if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                        return None;
                    }
                    break;
                }
                word.push(byte);
                rest = after;
            }
            if rest.first() == Some(&0) {
                rest = b"";
            }
        }
        words.push(word);
        rest = rest.trim_ascii_start();
    }
    Some(words)
}

/// Appends what is quoted and returns what comes after the closing quote.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [byte, after @ ..] if *byte == quote => return Some(after),
            [b'\\', b'\'', after @ ..] if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            [b'\\', b'x', high, low, after @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', byte, after @ ..] if quote == b'"' => {
                word.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<Words>, String> {
        let (mut parser, mut requests) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.push(piece);
            while let Some(words) = parser.next(Limits::KNOWN)? {
                requests.push(words);
            }
        }
        Ok(requests)
    }

    fn words(text: &[&str]) -> Words {
        text.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn requests_in_any_pieces_are_the_same_requests() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$5\r\na\r\nb\x00\r\nPING  'a b'\n\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\nset k \"\\x41\\n\"\r\n";
        let expected = vec![
            words(&["GET", "a\r\nb\0"]),
            words(&["PING", "a b"]),
            words(&[""]),
            words(&["set", "k", "A\n"]),
        ];
        assert_eq!(all(&[bytes]), Ok(expected.clone()));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(all(&single), Ok(expected.clone()));
        for at in 0..bytes.len() {
            assert_eq!(all(&[&bytes[..at], &bytes[at..]]), Ok(expected.clone()));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_redis_words() {
        for (bytes, message) in [
            (&b"*1048577\r\n"[..], "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1\r\n+3\r\n", "expected '$', got '+'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"*1\r\n$+3\r\n", "invalid bulk length"),
            (b"get 'a\r\n", "unbalanced quotes in request"),
            (b"get 'a'b\r\n", "unbalanced quotes in request"),
        ] {
            assert_eq!(all(&[bytes]), Err(message.to_owned()), "{}", bytes.escape_ascii());
        }
        let long = vec![b'a'; LINE + 1];
        assert_eq!(all(&[&long]), Err("too big inline request".to_owned()));
        assert_eq!(all(&[b"*1\r\n$", &long]), Err("too big bulk count string".to_owned()));
    }

    #[test]
    fn lengths_that_are_announced_take_no_memory() {
        let mut parser = Parser::default();
        parser.push(b"*1048576\r\n$536870912\r\nabc");
        assert_eq!(parser.next(Limits::KNOWN), Ok(None));
        assert!(parser.bytes.capacity() < 1 << 10);
        let stranger = |bytes: &[u8]| {
            let mut parser = Parser::default();
            parser.push(bytes);
            parser.next(Limits::STRANGER)
        };
        assert!(stranger(b"*11\r\n").is_err() && stranger(b"*1\r\n$16385\r\n").is_err());
    }

    #[test]
    fn words_that_were_taken_count_as_part_of_an_unfinished_request() {
        let limits = Limits { query: 1000, ..Limits::KNOWN };
        let word = [&b"$400\r\n"[..], &[b'v'; 400], b"\r\n"].concat();
        let mut parser = Parser::default();
        // As much may be asked for in several requests.
        for _ in 0..5 {
            parser.push(b"*2\r\n");
            parser.push(&word);
            assert_eq!(parser.next(limits), Ok(None));
            parser.push(&word);
            assert!(matches!(parser.next(limits), Ok(Some(_))));
        }
        parser.push(b"*4\r\n");
        for _ in 0..2 {
            parser.push(&word);
            assert_eq!(parser.next(limits), Ok(None));
        }
        parser.push(&word);
        assert_eq!(parser.next(limits), Err("too large a request".to_owned()));
    }

    #[test]
    fn numbers_are_taken_as_redis_takes_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            (" 1", None),
            ("1 ", None),
        ] {
            assert_eq!(integer(text.as_bytes()), number, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_end_in_the_same_way(
            bytes in prop::collection::vec(prop::sample::select(b"*$0123\r\nab\"'\\ ".to_vec()), 0..80),
            at in 0..80_usize,
        ) {
            let at = at.min(bytes.len());
            let whole = all(&[&bytes]);
            let split = all(&[&bytes[..at], &bytes[at..]]);
            prop_assert_eq!(whole, split);
        }
    }
}
