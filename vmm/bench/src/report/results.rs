//! Figures by name in the order of the report, which is not alphabetical. `serde_json` can preserve
//! the order only for all maps of all its users, and with that feature it would be compiled
//! separately for `vmm`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// A number for each name, or none if it is not available here. In JSON an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results(Vec<(String, Option<f64>)>);

impl Results {
    /// Adds a figure; its name must not exist yet.
    pub fn push(&mut self, name: String, value: Option<f64>) {
        self.0.push((name, value));
    }

    /// Whether there is a figure of that name, with or without a value.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The value of a figure.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name)?.1
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// All, in order, to change the values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Option<f64>)> {
        self.0.iter_mut().map(|(name, value)| (name.as_str(), value))
    }

    #[cfg(test)]
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }
}

impl Serialize for Results {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Results {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Results, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Results;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers or nulls by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Results, A::Error> {
                let mut all = Results::default();
                while let Some((name, value)) = map.next_entry()? {
                    all.push(name, value);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
