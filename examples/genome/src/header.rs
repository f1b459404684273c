//! The header of a file: its text, and the references that its reads are placed on.

use std::collections::HashMap;

/// A sequence that reads are placed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub name: Vec<u8>,
    pub length: u32,
}

/// A header, as it is read from a file.
#[derive(Debug, Default)]
pub struct Header {
    /// The lines that begin with `@`, as they are.
    pub text: Vec<u8>,
    pub references: Vec<Reference>,
    numbers: HashMap<Vec<u8>, i32>,
}

impl Header {
    /// The header of these lines; the references are those of its lines `@SQ`.
    ///
    /// # Errors
    /// What is wrong, and in which line, counted from 1.
    pub fn parse(text: Vec<u8>) -> Result<Header, (u64, String)> {
        let mut references = Vec::new();
        for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            if line.is_empty() {
                continue;
            }
            let wrong = |what: &str| Err((number, what.to_owned()));
            let kind = line.get(..3).unwrap_or(line);
            match kind {
                [b'@', a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {}
                _ => return wrong("a header line begins with @ and two letters"),
            }
            if !matches!(line.get(3), None | Some(b'\t')) {
                return wrong("a tab is missing after the type of the header line");
            }
            if kind == b"@SQ" {
                let (Some(name), Some(length)) = (field(line, b"SN:"), field(line, b"LN:")) else {
                    return wrong("a line @SQ needs SN: and LN:");
                };
                let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
                let Some(length) = length.filter(|length| *length <= i32::MAX as u32) else {
                    return wrong("LN: is no number below 2147483648");
                };
                references.push(Reference { name: name.to_vec(), length });
            }
        }
        Header::new(text, references).map_err(|what| (0, what))
    }

    /// A header with these references.
    ///
    /// # Errors
    /// If two have the same name.
    pub fn new(text: Vec<u8>, references: Vec<Reference>) -> Result<Header, String> {
        let mut numbers = HashMap::new();
        for (number, reference) in (0..).zip(&references) {
            if numbers.insert(reference.name.clone(), number).is_some() {
                let name = String::from_utf8_lossy(&reference.name);
                return Err(format!("two lines @SQ have the name {name}"));
            }
        }
        Ok(Header { text, references, numbers })
    }

    /// The number of a reference.
    #[must_use]
    pub fn number(&self, name: &[u8]) -> Option<i32> {
        self.numbers.get(name).copied()
    }
}

/// The value of a field of a header line.
pub(crate) fn field<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    line.split(|&byte| byte == b'\t').skip(1).find_map(|field| field.strip_prefix(key))
}

/// The header after a sort: the line `@HD` says in which order the reads are.
#[must_use]
pub fn sorted(text: &[u8], order: &str) -> Vec<u8> {
    let mut lines = text.split_inclusive(|&byte| byte == b'\n');
    let first = text.split(|&byte| byte == b'\n').next().unwrap_or(text);
    if !first.starts_with(b"@HD\t") {
        let mut all = format!("@HD\tVN:1.6\tSO:{order}\n").into_bytes();
        all.extend_from_slice(text);
        return all;
    }
    let mut all = Vec::with_capacity(text.len() + 16);
    let mut is_said = false;
    for (index, field) in first.split(|&byte| byte == b'\t').enumerate() {
        if field.starts_with(b"GO:") || field.starts_with(b"SS:") {
            continue;
        }
        if index > 0 {
            all.push(b'\t');
        }
        if field.starts_with(b"SO:") {
            is_said = true;
            all.extend_from_slice(format!("SO:{order}").as_bytes());
        } else {
            all.extend_from_slice(field);
        }
    }
    if !is_said {
        all.extend_from_slice(format!("\tSO:{order}").as_bytes());
    }
    all.push(b'\n');
    lines.next();
    lines.for_each(|line| all.extend_from_slice(line));
    all
}
