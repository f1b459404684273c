//! What a VM told of itself, read from its JSON. Another version of the command may have made that: what
//! is missing counts as nothing.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use vmm::control::{ControlError, Vm};
use vmm::store::Store;

/// A report.
#[derive(Clone, Debug)]
pub(crate) struct Seen(pub(crate) Value);

impl Seen {
    pub(crate) fn read(json: &str) -> Seen {
        Seen(serde_json::from_str(json).unwrap_or_default())
    }

    /// Of all VMs of this user; those that end meanwhile are left out. Of one that is stopped, or does not
    /// answer, only its number is known, and `silent` says why.
    pub(crate) fn all() -> Result<Vec<Seen>, ControlError> {
        let look = |vm: Vm| match vm.report() {
            Ok(json) => Some(Seen::read(&json)),
            Err(ControlError::Gone { .. }) => None,
            Err(ControlError::Stopped { .. }) => Some(Seen::silent(vm.pid(), "stopped")),
            Err(_) => Some(Seen::silent(vm.pid(), "no answer")),
        };
        Ok(Vm::all()?.into_iter().filter_map(look).collect())
    }

    fn silent(pid: i32, why: &str) -> Seen {
        Seen(json!({ "pid": pid, "silent": why }))
    }

    pub(crate) fn number(&self, key: &str) -> u64 {
        number(&self.0, key)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    pub(crate) fn list(&self, key: &str) -> &[Value] {
        list(&self.0, key)
    }

    /// The sum of a number over a list.
    pub(crate) fn sum(&self, key: &str, of: &str) -> u64 {
        self.list(key).iter().map(|one| number(one, of)).fold(0, u64::saturating_add)
    }

    /// Whether it may use the store at `path`, which is absolute; one that does not answer may.
    pub(crate) fn uses(&self, path: &Path) -> bool {
        self.text("silent").is_some()
            || self.text("store").is_some_and(|store| same(Path::new(store), path))
    }
}

/// Paths to one store may differ by links.
fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The processes that leases of a store belong to; nothing if it cannot be read.
pub(crate) fn processes(store: Option<&str>) -> HashMap<String, String> {
    let leases = store.and_then(|path| Store::open(Path::new(path)).ok()?.leases().ok());
    let leases = leases.into_iter().flatten();
    leases
        .map(|lease| {
            let program = lease.program.rsplit('/').next().unwrap_or_default().to_owned();
            (lease.id.to_string(), format!("process {} ({program})", lease.pid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Seen, processes};

    #[test]
    fn a_vm_that_does_not_answer_is_in_every_list() {
        assert!(Seen::silent(7, "stopped").uses(Path::new("/s")));
    }

    #[test]
    fn what_a_report_lacks_counts_as_nothing() {
        for json in ["", "[]", "{\"threads\": 3, \"pid\": \"x\", \"store\": 1}"] {
            let seen = Seen::read(json);
            assert_eq!((seen.number("pid"), seen.list("threads").len()), (0, 0));
            assert_eq!(seen.text("program"), None);
            assert!(!seen.uses(Path::new("/s")));
        }
    }

    #[test]
    fn numbers_are_added_up_over_a_list() {
        let seen = Seen::read(r#"{"memory": [{"bytes": 3}, {"bytes": 4}, {}], "store": "/s"}"#);
        assert_eq!(seen.sum("memory", "bytes"), 7);
        assert!(seen.uses(Path::new("/s")));
    }

    #[test]
    fn leases_of_a_store_that_is_not_there_are_unknown() {
        assert!(processes(Some("/no/store")).is_empty() && processes(None).is_empty());
    }
}
