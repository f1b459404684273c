//! One flat JSON object, written by hand: names are ours and need no escaping, values are
//! numbers, truth values or plain words.

use std::fmt::{self, Display, Write};

/// The one line a run prints; fields keep the order they were added in.
#[derive(Debug, Default)]
pub(crate) struct Object {
    text: String,
}

impl Object {
    /// Begins the object of a subcommand.
    pub(crate) fn new(kind: &str) -> Self {
        Self::default().raw("kind", format_args!("\"{kind}\""))
    }

    /// Adds a number.
    pub(crate) fn number(self, name: &str, value: impl Into<u128>) -> Self {
        let value: u128 = value.into();
        self.raw(name, value)
    }

    /// Adds a 64-bit pattern as a hexadecimal string: JSON readers round large numbers.
    pub(crate) fn pattern(self, name: &str, value: u64) -> Self {
        self.raw(name, format_args!("\"{value:016x}\""))
    }

    /// Adds a truth value.
    pub(crate) fn truth(self, name: &str, value: bool) -> Self {
        self.raw(name, value)
    }

    fn raw(mut self, name: &str, value: impl Display) -> Self {
        let comma = if self.text.is_empty() { "" } else { "," };
        write!(self.text, "{comma}\"{name}\":{value}").expect("writing to a String cannot fail");
        self
    }
}

impl Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_line_in_the_order_of_its_fields() {
        let object = Object::new("x").number("ns", 5_u64).pattern("sum", 0xab).truth("ok", true);
        let expected = r#"{"kind":"x","ns":5,"sum":"00000000000000ab","ok":true}"#;
        assert_eq!(object.to_string(), expected);
    }
}
