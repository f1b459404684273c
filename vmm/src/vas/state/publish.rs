//! What the guest kernel is shown of instances.
#![forbid(unsafe_code)]

use abi::Right;
use abi::switch::{CR3_KEEP, CR3_TAG, InstanceEntry, LockRef};

use super::State;
use super::instances::{Instance, LockList};
use crate::kernel::SwitchTables;
use crate::vas::VasError;

/// Tag of home; instances share the others.
const FIRST_TAG: u64 = 2;

impl State {
    /// Shows an instance to the kernel as it is now, if it is up to date with the store; otherwise
    /// the VMM keeps serving switches to it, as it does if there are versioned segments, but for views
    /// that are only read ([`State::publish_view`]). Its locks must not be held by a thread inside, unless
    /// they are the same as before.
    pub(crate) fn publish(&mut self, vh: u32, switch: &SwitchTables) -> Result<(), VasError> {
        if self.is_versioned(vh) {
            return self.publish_view(vh);
        }
        let list = self.lock_list(vh, switch);
        let instance = self.instances.known_mut(vh);
        if instance.shown.list.as_ref() != Some(&list) {
            let places = self.lock_lists.write(&list, switch)?;
            self.lock_lists.replace(vh, std::mem::replace(&mut instance.shown.locks, places));
        }
        let shown = &mut instance.shown;
        shown.cr3 = list.cr3;
        shown.open = instance.freshness.is_as_new_as(self.seen);
        if shown.open {
            let entry = InstanceEntry {
                cr3: list.cr3,
                generation: list.generation,
                lock_count: list.refs.len() as u32,
                lock_first: shown.locks.start,
                vid: instance.vid.raw(),
                ..InstanceEntry::default()
            };
            shown.list = Some(list);
            switch.set_instance(vh, &entry, true)?;
        } else {
            shown.list = Some(list);
            switch.clear_instance(vh)?;
        }
        Ok(())
    }

    /// What a thread in an instance holds, with the root it gets.
    fn lock_list(&self, vh: u32, switch: &SwitchTables) -> LockList {
        let instance = self.instances.known(vh);
        let references = instance.members.iter().filter_map(|(sid, member)| {
            let lock = self.residency.of_member(sid).lock.as_ref()?;
            Some(lock.reference(member.right == Right::Write))
        });
        let mut refs: Vec<LockRef> = references.collect();
        // The kernel compares by page (seg_lock).
        refs.sort_unstable_by_key(|lock| lock.page);
        let mut cr3 = instance.tables.root().raw();
        if instance.tagged && switch.machine().has_pcid() {
            cr3 |= CR3_KEEP | (FIRST_TAG + u64::from(vh) % (CR3_TAG + 1 - FIRST_TAG));
        }
        LockList { refs, cr3, generation: instance.generation }
    }

    /// Removes an instance's entry; no thread is inside.
    pub(crate) fn unpublish(
        &mut self,
        vh: u32,
        instance: &Instance,
        switch: &SwitchTables,
    ) -> Result<(), VasError> {
        switch.erase_instance(vh)?;
        self.lock_lists.replace(vh, instance.shown.locks.clone());
        Ok(())
    }
}
