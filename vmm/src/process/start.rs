//! From an executable file to a first vCPU ready to run.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use abi::layout::{CALL_PAGE, VDSO_BASE};
use abi::{Errno, PAGE_SIZE};
use object::ReadCache;

use super::config::RunConfig;
use super::thread;
use crate::files::{Files, FilesError, Namespace, NamespaceError, OffLimits, default_cwd};
use crate::guest::clock::GuestClock;
use crate::guest::elf::{self, ElfError};
use crate::guest::stack::{self, StackContents};
use crate::guest::vdso;
use crate::kernel::Kernel;
use crate::linux::limits::Limits;
use crate::linux::prctl::Settings;
use crate::linux::proc::{Facts, text_files};
use crate::linux::signal::SignalActions;
use crate::linux::survivor::Survivor;
use crate::linux::task::{Executable, Life, Process, ProgramName, ThreadTable};
use crate::linux::timer::Timers;
use crate::private::{Backing, PrivateRegion, Prot};
use crate::stats::{Phase, Stats};
use crate::store::{FOLDERS, Store};
use crate::vas::{VasConfig, Vases};
use crate::vm::machine::leaf;
use crate::vm::{Machine, MemoryError, UserRegs, VmError};

/// A program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file does not exist or is not readable.
    #[error("cannot open {program}")]
    Open {
        /// The program as given.
        program: String,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a program for this VM.
    #[error("cannot run {program}")]
    Elf {
        /// The program as given.
        program: String,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// The VM could not be created.
    #[error("cannot create a virtual machine")]
    Vm(#[from] VmError),
    /// Memory.
    #[error("cannot prepare the VM's memory")]
    Memory(#[from] MemoryError),
    /// Arguments and environment.
    #[error("cannot set up the stack: arguments and environment")]
    Stack(#[source] Errno),
    /// The directories granted.
    #[error("cannot set up the directories the program may see")]
    Namespace(#[from] NamespaceError),
    /// Current directory and standard descriptors.
    #[error("cannot set up the program's files")]
    Files(#[from] FilesError),
    /// The clock and its page.
    #[error("cannot map the vDSO")]
    Vdso(#[source] Errno),
    /// The host returned no random bytes for `AT_RANDOM`.
    #[error("cannot get random bytes from the host")]
    Random(#[source] std::io::Error),
    /// The host has no free file descriptor for the event loop.
    #[error("cannot create an event descriptor")]
    Events(#[source] std::io::Error),
}

impl Process {
    /// Creates a VM and loads the program; [`Process::run_to_end`] runs it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: RunConfig) -> Result<Arc<Process>, StartError> {
        let started = Instant::now();
        let stats = Stats::default();
        let name = config.program.display().to_string();
        let open = |source| StartError::Open { program: name.clone(), source };
        let file = Arc::new(File::open(&config.program).map_err(open)?);
        if file.metadata().map_err(open)?.is_dir() {
            return Err(open(std::io::Error::from_raw_os_error(libc::EISDIR)));
        }
        let bad = |source| StartError::Elf { program: name.clone(), source };
        let cache = ReadCache::new(&*file);
        let image = elf::parse(&cache).map_err(bad)?;

        let seen = seen_path(&config);
        let stores = config.store.clone().into_iter().chain(Store::usual_paths());
        let off_limits = OffLimits::stores(stores, &FOLDERS);
        let namespace = Namespace::new(&config.grants, Some(&seen), off_limits, text_files())?
            .with_tty(config.tty)
            .with_executable(file.clone());
        let cwd = config.cwd.clone().unwrap_or_else(|| {
            let host = std::env::current_dir().unwrap_or_default();
            default_cwd(&config.grants, &host)
        });
        let files = Files::new(namespace, config.stdio, &cwd, config.umask)?;
        let limits = Limits::default();
        let nofile = limits.soft(libc::RLIMIT_NOFILE);
        files.set_nofile(u32::try_from(nofile).unwrap_or(u32::MAX));
        files.set_max_size(limits.soft(libc::RLIMIT_FSIZE));
        for (fd, owned) in config.inherited {
            files.give(fd, owned)?;
        }

        let mut lap = stats.laps();
        let kernel = Kernel::load()?;
        let machine = kernel.machine().clone();
        lap.ends(Phase::Machine);
        limits.limit_threads(u64::from(machine.max_vcpus()));
        let mut vcpu = kernel.new_vcpu()?;
        lap.ends(Phase::Vcpu);
        let tsc_khz = vcpu.tsc_khz();
        let private = PrivateRegion::new(machine.clone(), config.memory_bytes);
        files.charge_to(machine.mem.ledger().clone());
        let vas_config = VasConfig {
            store: config.store.clone(),
            grants: config.vases.clone(),
            umask: config.umask,
            program: name.clone(),
        };
        let vases = Arc::new(Vases::new(&kernel, vas_config));
        let loaded = elf::load(&private, &file, &image).map_err(bad)?;
        // A guard page between program and heap, so that an overrun of one does not hit the other.
        private.set_heap(loaded.end + PAGE_SIZE);

        map_vdso(&private).map_err(StartError::Vdso)?;

        let exec_path = config.program.as_os_str().as_bytes().to_vec();
        let mut args = vec![exec_path.clone()];
        args.extend(config.args);
        let mut random = [0; 16];
        fill_random(&mut random).map_err(StartError::Random)?;
        let contents = StackContents {
            args: &args,
            env: &config.env,
            exec_path: &exec_path,
            aux: auxiliary_vector(&machine, &loaded),
            random,
        };
        let stack_limit = limits.soft(libc::RLIMIT_STACK);
        let built = stack::build(&private, &contents, loaded.exec_stack, stack_limit);
        let built = built.map_err(StartError::Stack)?;
        vcpu.regs = UserRegs { rip: loaded.entry, rsp: built.rsp, ..UserRegs::default() };
        vcpu.restore_all();
        lap.ends(Phase::Load);

        let short = config.program.file_name().unwrap_or(config.program.as_os_str());
        let program = ProgramName { path: exec_path, short: short.to_string_lossy().into_owned() };
        let process = Arc::new(Process {
            machine,
            kernel,
            private,
            vases,
            threads: ThreadTable::new().map_err(StartError::Events)?,
            files,
            limits,
            settings: Settings::default(),
            clock: Mutex::new(GuestClock::new(tsc_khz)),
            signals: SignalActions::default(),
            timers: Timers::default(),
            survivor: Survivor::default(),
            started,
            program,
            stats,
            facts: Facts::new(built),
            tsc_khz,
            executable: Executable { file, bias: loaded.bias, end: loaded.end },
            run_thread: thread::run,
            life: Life::new(vcpu),
            second_tasks: Mutex::default(),
        });
        let view: Weak<Process> = Arc::downgrade(&process);
        process.files.set_view(view);
        process.stats.kvm_setup(process.machine.mem.kvm_time());
        Ok(process)
    }
}

/// Maps the vDSO's image; the page it reads is already mapped.
fn map_vdso(private: &PrivateRegion) -> Result<(), Errno> {
    let image = vdso::image();
    let code = VDSO_BASE.raw();
    let read_execute = Prot::from_bits(5).unwrap_or_default();
    private.map_at(code, image.len() as u64, Prot::READ_WRITE, Backing::Anonymous, "vdso")?;
    private.copy_out(code, &image)?;
    private.protect(code, image.len() as u64, read_execute)
}

/// The program's absolute path, which is the target of `/proc/self/exe`; it need not be inside a
/// grant.
fn seen_path(config: &RunConfig) -> PathBuf {
    std::fs::canonicalize(&config.program).unwrap_or_else(|_| config.program.clone())
}

/// This few bytes are returned completely or not at all (getrandom(2)).
fn fill_random(bytes: &mut [u8; 16]) -> std::io::Result<()> {
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::io::retry_on_intr(|| rustix::rand::getrandom(bytes.as_mut_slice(), flags))?;
    Ok(())
}

fn auxiliary_vector(machine: &Machine, loaded: &elf::Loaded) -> Vec<(u64, u64)> {
    let uid = u64::from(rustix::process::getuid().as_raw());
    let gid = u64::from(rustix::process::getgid().as_raw());
    let features = leaf(&machine.cpuid, 1, 0).map_or(0, |l| u64::from(l.edx));
    // Bit 1 of AT_HWCAP2: ring 3 may use RDFSBASE and its kin.
    let hwcap2 = u64::from(machine.has_fsgsbase()) << 1;
    vec![
        (libc::AT_HWCAP, features),
        (libc::AT_PAGESZ, PAGE_SIZE),
        (libc::AT_CLKTCK, 100),
        (libc::AT_PHDR, loaded.phdr),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, loaded.phnum),
        (libc::AT_BASE, 0),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, loaded.entry),
        (libc::AT_UID, uid),
        (libc::AT_EUID, uid),
        (libc::AT_GID, gid),
        (libc::AT_EGID, gid),
        (libc::AT_SECURE, 0),
        (libc::AT_HWCAP2, hwcap2),
        // The frame of sigframe.rs: registers, information, red zone, XSAVE area, alignment.
        (libc::AT_MINSIGSTKSZ, 440 + 128 + 64 + machine.xstate_bytes() as u64),
        (libc::AT_SYSINFO_EHDR, VDSO_BASE.raw()),
        (abi::call::AT_SPACEJMP, CALL_PAGE.raw()),
    ]
}
