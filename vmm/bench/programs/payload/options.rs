//! The options after a subcommand: `--name N`, `--quick` and at most one plain argument.

/// Options with a value; anything else that starts with `--` is refused.
const VALUED: [&str; 14] = [
    "threads", "commits", "piece", "passes", "bytes", "count", "windows", "from", "rounds",
    "window", "pages", "batch", "seed", "millis",
];
const FLAGS: [&str; 12] = [
    "quick",
    "small",
    "polling",
    "crowded",
    "untimed",
    "volatile",
    "checked",
    "compared",
    "hash",
    "marked",
    "persistent",
    "one-by-one",
];

/// What is wrong with the arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misuse(pub(crate) String);

/// Parsed options of one subcommand.
#[derive(Debug, Default)]
pub(crate) struct Options {
    numbers: Vec<(&'static str, u64)>,
    flags: Vec<&'static str>,
    positional: Option<String>,
}

impl Options {
    /// Reads the arguments after the subcommand's name.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(name) = arg.strip_prefix("--") else {
                if options.positional.replace(arg.clone()).is_some() {
                    return Err(format!("one argument too many: {arg:?}"));
                }
                continue;
            };
            if let Some(known) = VALUED.into_iter().find(|known| *known == name) {
                let value = args.next().ok_or_else(|| format!("--{name} needs a number"))?;
                let number = parse_size(value).ok_or_else(|| format!("bad number {value:?}"))?;
                options.numbers.push((known, number));
            } else if let Some(known) = FLAGS.into_iter().find(|known| *known == name) {
                options.flags.push(known);
            } else {
                return Err(format!("unknown option {arg}"));
            }
        }
        Ok(options)
    }

    /// The last value given for `--name`, or the default.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, Misuse> {
        debug_assert!(VALUED.contains(&name), "{name} is not parsed");
        let found = self.numbers.iter().rev().find(|(known, _)| *known == name);
        let number = found.map_or(default, |(_, number)| *number);
        if usize::try_from(number).is_err() {
            return Err(Misuse(format!("--{name} is too large: {number}")));
        }
        Ok(number)
    }

    /// The same in 32 bits.
    pub(crate) fn small_number(&self, name: &str, default: u64) -> Result<u32, Misuse> {
        let number = self.number(name, default)?;
        u32::try_from(number).map_err(|_| Misuse(format!("--{name} is too large: {number}")))
    }

    /// Whether `--name` was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.flags.contains(&name)
    }

    /// The plain argument.
    pub(crate) fn positional(&self) -> Result<&str, Misuse> {
        self.positional.as_deref().ok_or_else(|| Misuse("an argument is missing".into()))
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, shift) = match text.bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn values_flags_and_one_argument_are_read() {
        let options = parse("file --piece 64K --quick --passes 3").unwrap();
        assert_eq!(options.number("piece", 0), Ok(65536));
        assert_eq!(options.number("passes", 1), Ok(3));
        assert_eq!(options.number("count", 7), Ok(7));
        assert!(options.has("quick"));
        assert_eq!(options.positional(), Ok("file"));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("--count").unwrap_err(), "--count needs a number");
        assert_eq!(parse("--count x").unwrap_err(), "bad number \"x\"");
        assert_eq!(parse("--cuont 1").unwrap_err(), "unknown option --cuont");
        assert_eq!(parse("a b").unwrap_err(), "one argument too many: \"b\"");
        assert!(parse("--quick").unwrap().positional().is_err());
    }
}
