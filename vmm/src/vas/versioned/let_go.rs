//! What a VM keeps of versions that it does not show any more: tables for a visit that will see a newer
//! one, mappings of logs and layers that another VM has brought elsewhere and removed. Their space on the disk
//! is free when the last VM lets them go. A VM that enters does so by itself; for one that never
//! enters again the event loop does, once a second.
#![forbid(unsafe_code)]

use abi::SegId;
use spacejmp_versions::VersionsError;

use super::visits::VisitTables;
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::state::{State, Vases};

impl Vases {
    /// Whether [`Vases::let_go`] is to be called from now on; says so once.
    pub fn is_to_let_go(&self) -> bool {
        !self.lets_go.swap(true, std::sync::atomic::Ordering::Relaxed)
    }

    /// Lets go of what no thread sees and no visit will see. Waits for no thread of the VM: the next
    /// second will do.
    pub fn let_go(&self) {
        let Ok(mut state) = self.state.try_lock() else { return };
        self.drop_stand_ins(&mut state);
        let versioned = state.residency.iter().filter(|(_, segment)| segment.has_versions());
        let versioned: Vec<SegId> = versioned.map(|(sid, _)| sid).collect();
        for sid in versioned {
            let done = state.let_go_of(sid);
            if done.is_err() {
                // Something is wrong with the files: the kernel is to look at the segment's words itself. If they
                // are gone, the program ends, with the file's name.
                state.distrust_stamps(sid);
            }
            warn_if_failed("let go of old versions", done);
        }
        state.renew_views();
    }
}

impl State {
    fn let_go_of(&mut self, sid: SegId) -> Result<(), VasError> {
        let segment = self.residency.of_member(sid);
        // A thread that appends has it for as long as the host copies.
        let is_free = segment.versioned().shared_log().try_lock().is_ok();
        if !is_free {
            return Ok(());
        }
        let published = segment.take_in()?;
        // Also what has changed without a new version. The next second sees what came meanwhile.
        match segment.versioned().log().refresh(published) {
            Err(VersionsError::Gone { .. }) => return Ok(()),
            refreshed => refreshed?,
        }
        let is_old =
            |tables: &VisitTables| tables.views.get(&sid).is_some_and(|it| it.version < published);
        self.withdraw_views(sid, |version| version < published);
        self.visits.drop_idle(&mut self.tables, is_old);
        self.unmap_stale(sid);
        Ok(())
    }

    /// Unmaps logs and layers that are gone and that no tables show.
    pub(super) fn unmap_stale(&mut self, sid: SegId) {
        let (logs, layers) = (self.visits.logs(sid), self.visits.layers(sid));
        let used = self.visits.versions(sid);
        let versioned = self.residency.of_member_mut(sid).versioned_mut();
        versioned.log().forget_unused(&used);
        // What is mapped of a file that has no name any more keeps its space on the disk.
        let stale = versioned.take_stale_windows(&logs, &layers);
        let stale = self.tables.machine().shared.give_back(stale);
        if !stale.is_empty() {
            self.tables.machine().windows.unmap(stale);
            self.tables.all_is_forgotten();
        }
    }
}
