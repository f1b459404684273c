//! Exact counts against `resources/counts.toml`, the record of what each path costs.
//!
//! A test measures every path of one table and passes all numbers together. Any difference
//! fails the test, with the lines that the table should have; so do lines that no test
//! measures. With `SPACEJMP_COUNTS=update` (`cargo xtask counts --update`) the table is
//! rewritten instead, and the file's comments and other tables are kept.
//!
//! What is measured, and how, is in the tests: `vmm/tests/kernel_image` (which includes this
//! file), `tests/tests/ring3/counts.rs` and `tests/tests/exit_counts.rs`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use toml_edit::{DocumentMut, Item, Value};

/// The variable that makes tests rewrite the file.
pub const VARIABLE: &str = "SPACEJMP_COUNTS";

/// The file as it was when the tests were built: machines that run them do not have it.
const RECORD: &str = include_str!("../../resources/counts.toml");

/// The measurements for one table of the file.
#[derive(Debug)]
pub struct Table {
    name: String,
    found: Vec<(String, u64)>,
    left: Vec<String>,
}

impl Table {
    /// The table `name`, as in `[exits.software]`. Nothing is measured yet.
    #[must_use]
    pub fn new(name: &str) -> Table {
        Table { name: name.to_owned(), found: Vec::new(), left: Vec::new() }
    }

    /// Records that `path` costs `count`.
    ///
    /// # Panics
    /// When the path was measured before.
    pub fn add(&mut self, path: &str, count: u64) {
        println!("[{}] {path}: {count}", self.name);
        assert!(self.found.iter().all(|(known, _)| known != path), "{path} is measured twice");
        self.found.push((path.to_owned(), count));
    }

    /// Measures `path` only if it is recorded, or is to be: it is for paths that depend on
    /// something outside the project, whose names begin with `family`; each computer has one of
    /// these. The lines of the others stay. Returns whether it was measured.
    pub fn add_own(&mut self, family: &str, path: &str, measure: impl FnOnce() -> u64) -> bool {
        let document: DocumentMut = RECORD.parse().expect("resources/counts.toml is TOML");
        let lines = find(&document, &self.name).and_then(Item::as_table_like);
        let names: Vec<String> =
            lines.into_iter().flat_map(|lines| lines.iter()).map(|(name, _)| name.into()).collect();
        let is_ours = updates() || names.iter().any(|name| name == path);
        let others = names.into_iter().filter(|name| name.starts_with(family) && name != path);
        self.left.extend(others);
        if is_ours {
            self.add(path, measure());
        }
        is_ours
    }

    /// The changes that `file` needs, one line each.
    fn differences(&self, file: &str) -> Vec<String> {
        let document: DocumentMut = file.parse().expect("resources/counts.toml is TOML");
        let table = find(&document, &self.name);
        let recorded = |path: &str| table?.get(path)?.as_integer();
        let mut wrong = Vec::new();
        for (path, count) in &self.found {
            match recorded(path) {
                Some(number) if u64::try_from(number) == Ok(*count) => {}
                Some(number) => wrong.push(format!("\"{path}\" = {count}    (not {number})")),
                None => wrong.push(format!("\"{path}\" = {count}    (no such line yet)")),
            }
        }
        let lines = table.and_then(Item::as_table_like);
        for (path, _) in lines.into_iter().flat_map(|lines| lines.iter()) {
            let is_known = self.found.iter().any(|(known, _)| known == path);
            if !is_known && !self.left.iter().any(|left| left == path) {
                wrong.push(format!("\"{path}\": no test measures it, remove the line"));
            }
        }
        wrong
    }

    fn update(&self) {
        // Tests of one program run side by side.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().expect("no test fails while updating");
        let path = file();
        let text = std::fs::read_to_string(&path).expect("the file is in the source tree");
        let updated = self.updated(&text);
        std::fs::write(&path, updated).expect("the source tree can be written");
    }

    /// `text`, with this table as measured.
    fn updated(&self, text: &str) -> String {
        let mut document: DocumentMut = text.parse().expect("resources/counts.toml is TOML");
        let mut table = document.as_item_mut();
        for part in self.name.split('.') {
            table = &mut table[part];
            if table.is_none() {
                *table = toml_edit::table();
            }
        }
        let lines = table.as_table_like_mut().expect("it is a table");
        let known = |path: &str| {
            self.found.iter().any(|(found, _)| found == path)
                || self.left.iter().any(|left| left == path)
        };
        let stale: Vec<_> =
            lines.iter().map(|(path, _)| path.to_owned()).filter(|path| !known(path)).collect();
        for path in stale {
            lines.remove(&path);
        }
        for (path, count) in &self.found {
            let mut number = Value::from(i64::try_from(*count).expect("counts are small"));
            // The comment after it stays.
            if let Some(old) = lines.get(path).and_then(Item::as_value) {
                *number.decor_mut() = old.decor().clone();
            }
            lines.insert(path, Item::Value(number));
        }
        document.to_string()
    }
}

/// Compares everything that was measured with the file, or rewrites the tables in it.
///
/// # Panics
/// With the lines to change, when something differs or is in only one of the two.
#[track_caller]
pub fn compare(tables: impl IntoIterator<Item = Table>) {
    let mut wrong = Vec::new();
    for table in tables {
        if updates() {
            table.update();
        } else {
            let differences = table.differences(RECORD);
            let title = (!differences.is_empty()).then(|| format!("[{}]", table.name));
            wrong.extend(title.into_iter().chain(differences));
        }
    }
    assert!(
        wrong.is_empty(),
        "resources/counts.toml should have:\n{}\nIf this is meant, change the lines by hand or by \
         `cargo xtask counts --update`, and say why in CHANGELOG.md.",
        wrong.join("\n")
    );
}

fn updates() -> bool {
    std::env::var(VARIABLE).is_ok_and(|wish| wish == "update")
}

fn find<'a>(document: &'a DocumentMut, name: &str) -> Option<&'a Item> {
    name.split('.').try_fold(document.as_item(), |item, part| item.get(part))
}

fn file() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("packages lie in the workspace").join("resources/counts.toml")
}

#[cfg(test)]
mod tests {
    use super::Table;

    const FILE: &str = "# Why.\n[a.b]\n\"null call\" = 3 # short\nold = 1\n\n[c]\nx = 1\n";

    fn measured(found: &[(&str, u64)]) -> Table {
        let mut table = Table::new("a.b");
        found.iter().for_each(|(path, count)| table.add(path, *count));
        table
    }

    #[test]
    fn each_difference_is_told_with_its_line() {
        assert_eq!(measured(&[("null call", 3), ("old", 1)]).differences(FILE), [""; 0]);
        let wrong = measured(&[("null call", 4), ("new", 7)]).differences(FILE);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].starts_with("\"null call\" = 4 ") && wrong[0].contains("not 3"));
        assert!(wrong[1].starts_with("\"new\" = 7 ") && wrong[2].starts_with("\"old\": no test"));
        assert_eq!(Table::new("nowhere").differences(FILE), [""; 0]);
    }

    #[test]
    fn an_update_keeps_comments_and_other_tables() {
        let table = measured(&[("null call", 4), ("new", 7)]);
        let updated = table.updated(FILE);
        assert_eq!(table.differences(&updated), [""; 0]);
        assert!(updated.starts_with("# Why.\n[a.b]\n\"null call\" = 4"), "{updated}");
        assert!(updated.contains("# short") && updated.contains("[c]\nx = 1"), "{updated}");
    }
}
