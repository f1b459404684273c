//! One range of addresses in which the drawn window of a file is mapped: what a program
//! without address spaces does. Runs natively and in a VM.
//!
//! One call makes the change, `mmap` with `MAP_FIXED` over what was there: cheaper than
//! `munmap` and `mmap`. All of the file is in the page cache.

use std::os::fd::OwnedFd;

use super::Engine;
use super::plan::Plan;
use super::table::Words;
use crate::mapping::{Mapping, memory};

/// When the pages of a window enter the page tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// At the first touch of each.
    Touched,
    /// All of them with the call (`MAP_POPULATE`).
    Mapped,
}

/// The range and what is in it.
pub(crate) struct Remapped {
    file: OwnedFd,
    mapping: Mapping,
    window_bytes: u64,
    when: When,
    mapped: Option<u32>,
}

impl Remapped {
    pub(crate) fn new(plan: &Plan, when: When) -> Result<Remapped, String> {
        let file = memory(u64::from(plan.windows) * plan.window_bytes)?;
        let mapping = Mapping::new(&file, 0, plan.window_bytes)?;
        let window_bytes = plan.window_bytes;
        let mut new = Remapped { file, mapping, window_bytes, when, mapped: None };
        for index in 0..plan.windows {
            new.go(index)?.touch();
        }
        Ok(new)
    }

    fn go(&mut self, window: u32) -> Result<Words<'_>, String> {
        if self.mapped != Some(window) {
            let offset = u64::from(window) * self.window_bytes;
            self.mapping.replace(&self.file, offset, self.when == When::Mapped)?;
            self.mapped = Some(window);
        }
        Ok(Words::of(&self.mapping, 0, self.window_bytes))
    }
}

impl Engine for Remapped {
    fn begin(&mut self, _: u32) -> Result<(), String> {
        // With one window nothing is mapped again, so it must be there from the start.
        self.go(0)?.touch();
        Ok(())
    }

    fn apply(&mut self, window: u32, set: &[u64]) -> Result<(), String> {
        self.go(window)?.update(set);
        Ok(())
    }

    fn window_sum(&mut self, window: u32) -> Result<u64, String> {
        Ok(self.go(window)?.sum(window))
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::drive;
    use super::super::windows::Flat;
    use super::*;

    #[test]
    fn the_same_table_comes_out_of_mapping_anew_and_of_mapping_all() {
        let (windows, window_bytes) = (4, 8192);
        let plan = Plan { windows, from: 2, window_bytes, sets: 20, rounds: 2, is_small: true };
        let mut flat = Flat::new(&plan).unwrap();
        drive(&plan, &mut flat).unwrap();
        for when in [When::Touched, When::Mapped] {
            let mut remapped = Remapped::new(&plan, when).unwrap();
            drive(&plan, &mut remapped).unwrap();
            assert_eq!(remapped.sum(4), flat.sum(4));
        }
    }
}
