//! Which threads are inside an instance, and on which root: what is asked when a thread leaves the guest, and
//! before an instance is changed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::vas::state::{State, Vases};
use crate::vas::{HOME, VasError};
use crate::vm::Vcpu;

/// How long a switch in the kernel that fails can take, and how often that is waited for: a
/// vCPU can be kept from running in the middle.
const IN_PASSING: Duration = Duration::from_micros(100);
const IN_PASSING_TRIES: u32 = 20;

impl Vases {
    /// Notes where the thread that runs `vcpu` is, and brings the vCPU's root up to date. To be
    /// called when it has left the guest, before its exit is served.
    pub fn note_exit(&self, vcpu: &mut Vcpu) {
        if !self.is_active() {
            return;
        }
        let vh = self.switch.current_instance(vcpu.index()).unwrap_or(HOME);
        vcpu.set_instance(vh);
        // The kernel may have let the thread into a view of a versioned segment, or out of one.
        if (vh != HOME || vcpu.is_visiting()) && self.kernel_views.load(Ordering::SeqCst) {
            self.adopt(&mut self.lock(), vcpu, vh);
        }
        if self.wants_reload(vcpu.index()) {
            let mut state = self.lock();
            self.follow_root(&mut state, vcpu, vh);
        }
    }

    /// Notes which visit the thread makes that runs `vcpu` and is in instance `vh`.
    pub(crate) fn adopt(&self, state: &mut State, vcpu: &mut Vcpu, vh: u32) {
        // In the middle of the kernel nothing is served that needs it.
        if !vcpu.is_in_kernel() {
            state.adopt(vcpu.index(), vh, vcpu.cr3());
            vcpu.set_visiting(state.visits.of(vcpu.index()).is_some());
        }
    }

    /// Whether a thread of this process is inside instance `vh`. To be asked when the kernel has
    /// been kept from serving switches there: a thread whose attempt just failed may count as
    /// inside for a few more instructions, and is waited for. One vCPU is left out of this.
    pub(crate) fn is_occupied(&self, vh: u32, but_for: Option<u32>) -> Result<bool, VasError> {
        for _ in 0..IN_PASSING_TRIES {
            let mut vcpus = self.switch.vcpus_in(vh)?;
            vcpus.retain(|&inside| Some(inside) != but_for);
            if vcpus.is_empty() {
                return Ok(false);
            }
            for vcpu in vcpus {
                if self.switch.current_instance(vcpu)? == vh {
                    return Ok(true);
                }
            }
            std::thread::sleep(IN_PASSING);
        }
        Ok(true)
    }

    /// What an instance's entry says for CR3, or the root of the visit that the thread on `vcpu`
    /// makes there.
    pub(crate) fn root_of(&self, state: &State, vcpu: u32, vh: u32) -> u64 {
        if let Some(tables) = state.visits.tables_of(vcpu).filter(|tables| tables.vh == vh) {
            return tables.tables.root().raw();
        }
        match state.instances.get(vh) {
            Some(instance) => instance.shown.cr3,
            None => self.switch.home_cr3(),
        }
    }

    /// Puts the vCPU on the root its instance has now.
    pub(crate) fn follow_root(&self, state: &mut State, vcpu: &mut Vcpu, vh: u32) {
        // The kernel may be loading a root itself; the vCPU stays on the list for later.
        if vcpu.is_in_kernel() {
            return;
        }
        let root = self.root_of(state, vcpu.index(), vh);
        if crate::kernel::switch_tables::loadable(root) != vcpu.cr3()
            && self.switch.switch_root(vcpu, root).is_err()
        {
            return;
        }
        state.tables.reloaded(vcpu.index());
    }

    /// Whether the vCPU must load its root anew.
    fn wants_reload(&self, vcpu: u32) -> bool {
        self.reload_waits.load(Ordering::Acquire)
            && self.lock().tables.outdated_vcpus().contains(&vcpu)
    }

    /// vCPUs that run on tables which were replaced.
    #[must_use]
    pub fn outdated_vcpus(&self) -> Vec<u32> {
        self.lock().tables.outdated_vcpus().to_vec()
    }
}
