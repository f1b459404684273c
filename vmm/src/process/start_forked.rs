//! From a copy of another process to a first vCPU ready to go on.

use std::sync::Arc;
use std::time::Instant;

use super::StartError;
use super::assemble::{Begins, EmptyVm};
use crate::linux::children::{Children, ForkedProcess};
use crate::linux::signal::ThreadSignals;
use crate::linux::survivor::Survivor;
use crate::linux::task::{Executable, FirstThread, Process, VmSettings};
use crate::process_tree::Channel;
use crate::stats::Phase;

/// A child's VM, made while its parent copies what is to be in it.
pub(super) struct AwaitsCopy(EmptyVm);

impl AwaitsCopy {
    /// # Errors
    /// [`StartError`].
    pub(super) fn new(vm: &VmSettings, children: &Children) -> Result<AwaitsCopy, StartError> {
        EmptyVm::new(vm, children, Instant::now()).map(AwaitsCopy)
    }

    /// What the child's files in memory are charged to.
    pub(super) fn ledger(&self) -> Arc<crate::vm::MemoryLedger> {
        self.0.kernel.machine().mem.ledger().clone()
    }

    /// The child, which goes on where its parent called. `parent` is told when it has attached its address
    /// spaces, and kept if the parent `waits`.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) fn begin(
        self,
        forked: ForkedProcess,
        parent: Arc<Channel>,
        waits: bool,
        vm: &VmSettings,
        children: Arc<Children>,
    ) -> Result<Arc<Process>, StartError> {
        let AwaitsCopy(mut empty) = self;
        let ForkedProcess { region, files, thread, limits, actions, settings, .. } = forked;
        let ForkedProcess { program, loaded: [bias, end], facts, attached, sysv, points, .. } =
            forked;
        let file = files.executable().ok_or(StartError::Fork(abi::Errno::ENOENT))?;
        let shares = region.has_shared();
        empty.private.take_over(region).map_err(StartError::Fork)?;
        for (at, byte) in points {
            // What the parent has unmapped is not there.
            let _ = empty.private.poke(at, &[byte]);
        }
        let pid = std::process::id();
        if thread.set_tid != 0 {
            // As on Linux, an address that is none is no error.
            let _ = empty.private.copy_out(thread.set_tid, &pid.to_le_bytes());
        }
        empty.vcpu.regs = thread.regs;
        empty.vcpu.restore_all();
        empty.vcpu.set_fs_base(thread.fs_base);
        empty.vcpu.set_gs_base(thread.gs_base);
        empty.vcpu.set_fpu_state(&thread.fpu)?;
        empty.stats.laps().ends(Phase::Load);
        let first_thread = FirstThread {
            signals: ThreadSignals::of_copy(thread.mask, thread.alt),
            name: thread.name,
            clear_tid: thread.clear_tid,
            // A child holds none of its parent's locks.
            robust_list: 0,
            owner: None,
            others: Vec::new(),
        };
        let executable = Executable { file, bias, end };
        let signals = actions;
        let held_by = waits.then(|| parent.clone());
        let begins = Begins {
            program,
            executable,
            files,
            limits,
            settings,
            signals,
            facts,
            first_thread,
            held_by,
            sysv,
        };
        let process = empty.begin(begins, vm, children)?;
        for one in &attached {
            // The program finds a handle without an address space, as after `vas_detach`.
            if let Err(error) = process.vases.attach_again(one) {
                let error = crate::error::chain(&error);
                tracing::warn!(%error, "an address space is not attached in the child");
            }
        }
        if process.vases.takes_up_sharing() || shares {
            Survivor::make_here(&process);
        }
        if process.vases.is_to_let_go() {
            process.call_every_second(|process| process.vases.let_go());
        }
        if !attached.is_empty() {
            // It need not wait for that any longer.
            let _ = parent.send(&[], &[]);
        }
        Ok(process)
    }
}
