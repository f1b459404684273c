//! Lists of locks in the kernel's table of references: where the next one may lie.
#![forbid(unsafe_code)]

use std::ops::Range;

use abi::layout::LOCK_REFS_BYTES;
use abi::switch::LockRef;

use super::instances::LockList;
use crate::kernel::SwitchTables;
use crate::vas::VasError;
use crate::vas::range_allocator::RangeAllocator;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LockLists {
    places: RangeAllocator,
    /// Lists that no entry names any more, each with the instance that had it.
    replaced: Vec<(u32, Range<u32>)>,
}

impl LockLists {
    /// Writes a list where there was none, or none is used any more: nothing for a plain instance.
    pub(crate) fn write(
        &mut self,
        list: &LockList,
        switch: &SwitchTables,
    ) -> Result<Range<u32>, VasError> {
        let count = list.refs.len() as u32;
        if count == 0 {
            return Ok(0..0);
        }
        self.sweep(switch)?;
        let limit = (LOCK_REFS_BYTES / size_of::<LockRef>() as u64) as u32 - 1;
        let full = VasError::Full { what: "references to locks" };
        // One more place for the list's end; place 0 is not usable.
        let first = self.places.allocate(count + 1, limit).ok_or(full)? + 1;
        switch.set_lock_list(first, &list.refs, list.cr3, list.generation)?;
        Ok(first..first + count)
    }

    /// Notes that the entry of instance `vh` no longer names a list.
    pub(crate) fn replace(&mut self, vh: u32, list: Range<u32>) {
        if !list.is_empty() {
            self.replaced.push((vh, list));
        }
    }

    /// Frees the places of lists that were replaced, unless a vCPU still holds locks by them, or is
    /// inside the instance and may be looking at its list.
    fn sweep(&mut self, switch: &SwitchTables) -> Result<(), VasError> {
        if self.replaced.is_empty() {
            return Ok(());
        }
        let held = switch.all_held_locks()?;
        for (vh, list) in std::mem::take(&mut self.replaced) {
            if held.contains(&list.start) || !switch.vcpus_in(vh)?.is_empty() {
                self.replaced.push((vh, list));
            } else {
                self.places.free(list.start - 1);
            }
        }
        Ok(())
    }
}
