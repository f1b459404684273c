//! What a program's start and a fork have in common: a VM without a program, and a process of one with
//! it.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::{StartError, thread};
use crate::files::{FileKind, Files};
use crate::guest::clock::GuestClock;
use crate::kernel::Kernel;
use crate::linux::children::Children;
use crate::linux::limits::Limits;
use crate::linux::net::Network;
use crate::linux::prctl::Settings;
use crate::linux::proc::Facts;
use crate::linux::profile::Profile;
use crate::linux::signal::SignalActions;
use crate::linux::signalfd::SignalFiles;
use crate::linux::survivor::Survivor;
use crate::linux::sysv::Attached;
use crate::linux::task::{
    Executable, FirstThread, Life, Process, ProgramName, ThreadTable, VmSettings,
};
use crate::linux::timer::Timers;
use crate::private::PrivateRegion;
use crate::process_tree::Channel;
use crate::process_tree::disk_use::DiskUse;
use crate::stats::{Phase, Stats};
use crate::vas::{VasConfig, Vases};
use crate::vm::Vcpu;

/// A VM without a program.
pub(super) struct EmptyVm {
    pub(super) kernel: Kernel,
    pub(super) vcpu: Vcpu,
    pub(super) private: PrivateRegion,
    pub(super) stats: Stats,
    started: Instant,
}

/// What a program has besides its VM when its first thread begins.
pub(super) struct Begins {
    pub(super) program: ProgramName,
    pub(super) executable: Executable,
    pub(super) files: Files,
    pub(super) limits: Limits,
    pub(super) settings: Settings,
    pub(super) signals: SignalActions,
    pub(super) facts: Facts,
    pub(super) first_thread: FirstThread,
    pub(super) held_by: Option<Arc<Channel>>,
    pub(super) sysv: Attached,
}

impl EmptyVm {
    /// Makes one, in whose first vCPU no register is set.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) fn new(
        vm: &VmSettings,
        children: &Children,
        started: Instant,
    ) -> Result<EmptyVm, StartError> {
        let stats = Stats::default();
        let mut lap = stats.laps();
        let kernel = Kernel::load()?;
        let machine = kernel.machine().clone();
        // A traced run tells each of them; a debugger steps over one as over any call.
        if vm.tracer.is_some() || vm.debug.as_ref().is_some_and(|debug| debug.is_from_start()) {
            kernel.leave_switches_to_vmm();
        }
        lap.ends(Phase::Machine);
        let vcpu = kernel.new_vcpu()?;
        lap.ends(Phase::Vcpu);
        let private = PrivateRegion::new(machine.clone(), vm.memory_bytes);
        if let Some(member) = children.member() {
            machine.mem.ledger().share(member.clone());
        }
        Ok(EmptyVm { kernel, vcpu, private, stats, started })
    }

    /// The process whose memory and registers are in it now.
    ///
    /// # Errors
    /// [`StartError::Events`].
    pub(super) fn begin(
        self,
        begins: Begins,
        vm: &VmSettings,
        children: Arc<Children>,
    ) -> Result<Arc<Process>, StartError> {
        let EmptyVm { kernel, vcpu, private, stats, started } = self;
        let Begins { program, executable, files, limits, settings, signals, .. } = begins;
        let machine = kernel.machine().clone();
        let tsc_khz = vcpu.tsc_khz();
        limits.limit_threads(u64::from(machine.max_vcpus()));
        files.charge_to(machine.mem.ledger().clone());
        if let Some(member) = children.member() {
            files.count_descriptors(Arc::new(member.clone()));
            // Without, it is not blocked, and would end this process.
            files.pass_sigio();
        }
        // One for the process: its threads take turns by it.
        let disk = vm.disk.clone().map(|limit| Arc::new(DiskUse::new(limit)));
        if let Some(disk) = &disk {
            files.count_disk(disk.clone());
        }
        let vas_config = VasConfig {
            store: vm.store.clone(),
            grants: vm.vases.clone(),
            umask: vm.umask,
            program: String::from_utf8_lossy(&program.path).into_owned(),
            disk,
        };
        let vases = Arc::new(Vases::new(&kernel, vas_config));
        let process = Arc::new(Process {
            machine,
            kernel,
            private,
            vases,
            threads: ThreadTable::new().map_err(StartError::Events)?,
            files,
            network: Network::new(vm.net.clone()),
            limits,
            settings,
            clock: Mutex::new(GuestClock::new(tsc_khz)),
            signals,
            timers: Timers::default(),
            signal_files: SignalFiles::default(),
            survivor: Survivor::default(),
            started,
            program,
            stats,
            traced: vm.tracer.clone(),
            viewed: Default::default(),
            profile: vm.profiler.as_deref().map(Profile::new),
            facts: begins.facts,
            tsc_khz,
            executable,
            run_thread: thread::run,
            choose_program: super::executable::choose_next,
            children,
            sysv: begins.sysv,
            vm: vm.clone(),
            life: Life::new(vcpu, begins.first_thread),
            core: Default::default(),
            _held_by: begins.held_by,
            second_tasks: Mutex::default(),
            errands: Default::default(),
            snapshots: Default::default(),
        });
        let view: Weak<Process> = Arc::downgrade(&process);
        process.files.set_view(view);
        for file in process.files.of_kind(FileKind::SignalFd) {
            // Kept over `execve`.
            process.signal_files.add(&file);
        }
        process.stats.kvm_setup(process.machine.mem.kvm_time());
        Ok(process)
    }
}
