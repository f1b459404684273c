//! `CONFIG`: what can be asked, and what can be changed while the server runs.

use super::Server;
use crate::glob;
use crate::reply::Out;
use crate::request::{Limits, integer};

/// What can be changed.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) password: Option<String>,
    pub(super) max_clients: usize,
    /// It is listened to from elsewhere.
    needs_password: bool,
    /// Of those who have given the password.
    pub(super) limits: Limits,
    /// Values of `FORMS`.
    forms: [String; FORMS.len()],
}

/// Parameters of how Redis keeps small values, the older name of each, and what Redis begins with. They are
/// remembered for who asks: here each kind of value is kept in one way, whatever its size.
const FORMS: [(&str, &str, &str); 7] = [
    ("hash-max-listpack-entries", "hash-max-ziplist-entries", "512"),
    ("hash-max-listpack-value", "hash-max-ziplist-value", "64"),
    ("list-compress-depth", "", "0"),
    ("list-max-listpack-size", "list-max-ziplist-size", "-2"),
    ("set-max-intset-entries", "", "512"),
    ("zset-max-listpack-entries", "zset-max-ziplist-entries", "128"),
    ("zset-max-listpack-value", "zset-max-ziplist-value", "64"),
];

impl Settings {
    pub(super) fn new(options: &super::Options) -> Settings {
        Settings {
            password: options.password.clone(),
            max_clients: options.max_clients,
            needs_password: options.tcp.iter().any(|address| !address.ip().is_loopback()),
            limits: Limits::KNOWN,
            forms: FORMS.map(|(.., value)| value.to_owned()),
        }
    }

    /// All that can be asked, with their values.
    fn all(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("appendonly", "yes".to_owned()),
            ("client-query-buffer-limit", self.limits.query.to_string()),
            ("databases", crate::data::DATABASES.to_string()),
            ("maxclients", self.max_clients.to_string()),
            ("proto-max-bulk-len", self.limits.bulk.to_string()),
            ("requirepass", self.password.clone().unwrap_or_default()),
            ("save", String::new()),
        ];
        for ((name, older, _), value) in FORMS.iter().zip(&self.forms) {
            let names = [name, older].into_iter().filter(|name| !name.is_empty());
            all.extend(names.map(|name| (*name, value.clone())));
        }
        all
    }

    /// Gives a parameter a value.
    ///
    /// # Errors
    /// Why not.
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(value).into_owned();
        let failed = |why: &str| {
            format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
        };
        let size = |least: usize| {
            let bytes = bytes(value).ok_or_else(|| failed("argument must be a memory value"))?;
            (bytes >= least)
                .then_some(bytes)
                .ok_or_else(|| failed(&format!("argument must be at least {least}")))
        };
        let form = FORMS.iter().position(|(known, older, _)| *known == name || *older == name);
        match name {
            "requirepass" if text.is_empty() && self.needs_password => {
                return Err(failed("whoever reaches the server could change everything"));
            }
            "requirepass" => self.password = (!text.is_empty()).then_some(text),
            "maxclients" => {
                let count = integer(value).and_then(|count| usize::try_from(count).ok());
                let count = count.filter(|count| *count > 0);
                self.max_clients =
                    count.ok_or_else(|| failed("argument couldn't be parsed into an integer"))?;
            }
            "proto-max-bulk-len" => self.limits.bulk = size(1 << 20)?.min(Limits::KNOWN.bulk),
            "client-query-buffer-limit" => self.limits.query = size(1 << 20)?,
            // They can be given the value that they have.
            "save" if text.is_empty() => {}
            "save" => {
                return Err(failed(
                    "there are no points of time to save at: each change is stored",
                ));
            }
            "appendonly" if text == "yes" => {}
            "appendonly" => return Err(failed("every change is stored: see --durability")),
            _ => match form {
                Some(_) if integer(value).is_none() => {
                    return Err(failed("argument couldn't be parsed into an integer"));
                }
                Some(place) => self.forms[place] = text,
                None => {
                    return Err(format!(
                        "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
                    ));
                }
            },
        }
        Ok(())
    }
}

/// A number of bytes, as configuration has it.
fn bytes(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<usize>().ok()?.checked_mul(unit)
}

impl Server<'_> {
    pub(super) fn config(&mut self, request: &[Vec<u8>], out: &mut Out) {
        match (&request[1].to_ascii_uppercase()[..], &request[2..]) {
            (b"GET", patterns) if !patterns.is_empty() => {
                let is_wanted = |name: &str| {
                    patterns.iter().any(|pattern| {
                        glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes())
                    })
                };
                let mut found = self.settings.all();
                found.retain(|(name, _)| is_wanted(name));
                out.map(found.len());
                for (name, value) in found {
                    out.bulk(name.as_bytes());
                    out.bulk(value.as_bytes());
                }
            }
            (b"SET", pairs) if !pairs.is_empty() && pairs.len().is_multiple_of(2) => {
                // All or none.
                let mut settings = self.settings.clone();
                let mut seen = Vec::new();
                for pair in pairs.chunks_exact(2) {
                    let name = String::from_utf8_lossy(&pair[0]).to_ascii_lowercase();
                    let done = if seen.contains(&name) {
                        Err(format!(
                            "ERR CONFIG SET failed (possibly related to argument '{name}') - duplicate parameter"
                        ))
                    } else {
                        settings.set(&name, &pair[1])
                    };
                    if let Err(problem) = done {
                        out.error(&problem);
                        return;
                    }
                    seen.push(name);
                }
                self.settings = settings;
                out.ok();
            }
            (b"RESETSTAT", []) => {
                (self.commands, self.accepted) = (0, 0);
                out.ok();
            }
            (b"GET" | b"SET" | b"RESETSTAT", _) => {
                let name = String::from_utf8_lossy(&request[1]).to_ascii_lowercase();
                out.error(&format!("ERR wrong number of arguments for 'config|{name}' command"));
            }
            _ => {
                let name = String::from_utf8_lossy(&request[1]).into_owned();
                out.error(&format!("ERR unknown subcommand '{name}'. Try CONFIG HELP."));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(&super::super::Options {
            tcp: Vec::new(),
            unix: None,
            password: None,
            max_clients: 10,
        })
    }

    #[test]
    fn what_can_be_changed_has_the_value_that_it_was_given() {
        let mut all = settings();
        for (name, value, shown) in [
            ("requirepass", "word", "word"),
            ("maxclients", "3", "3"),
            ("proto-max-bulk-len", "2mb", "2097152"),
            ("client-query-buffer-limit", "3000k", "3000000"),
            ("hash-max-ziplist-entries", "7", "7"),
            ("list-max-listpack-size", "-1", "-1"),
            ("save", "", ""),
        ] {
            all.set(name, value.as_bytes()).expect(name);
            let held = all.all().into_iter().find(|(known, _)| *known == name);
            assert_eq!(held.map(|(_, value)| value).as_deref(), Some(shown), "{name}");
        }
        let both: Vec<_> =
            all.all().into_iter().filter(|(name, _)| name.starts_with("hash-max")).collect();
        assert_eq!(both.iter().filter(|(_, value)| value == "7").count(), 2, "by both names");
    }

    #[test]
    fn what_cannot_be_is_refused_and_nothing_changes() {
        let mut all = settings();
        let before = all.all();
        for (name, value) in [
            ("maxclients", "0"),
            ("maxclients", "x"),
            ("proto-max-bulk-len", "1"),
            ("save", "900 1"),
            ("appendonly", "no"),
            ("zset-max-listpack-value", "x"),
            ("databases", "3"),
            ("nothing", "1"),
        ] {
            assert!(all.set(name, value.as_bytes()).is_err(), "{name} {value}");
        }
        assert_eq!(all.all(), before);
        all.needs_password = true;
        assert!(all.set("requirepass", b"word").is_ok() && all.set("requirepass", b"").is_err());
    }
}
