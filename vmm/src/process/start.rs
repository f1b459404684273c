//! From an executable file to a first vCPU ready to run.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use abi::layout::{CALL_PAGE, VDSO_BASE};
use abi::{Errno, PAGE_SIZE};
use rustix::fs::FileType;

use super::assemble::{Begins, EmptyVm};
use super::config::{Command, Libraries, RunConfig};
use super::executable::{self, InterpreterError, Opened, Parsed};
use super::private_tmp::GUEST_PATH;
use super::start_kept::SnapshotError;
use super::{libraries, resolver};
use crate::confine::{self, PathRight, Paths, Policy};
use crate::files::{
    Files, FilesError, Grant, GrantAccess, Namespace, NamespaceError, OffLimits, default_cwd,
};
use crate::guest::elf::ElfError;
use crate::guest::load::{self, Loaded};
use crate::guest::stack::{self, StackContents};
use crate::guest::vdso;
use crate::linux::children::{Children, NewProgram};
use crate::linux::limits::Limits;
use crate::linux::net::NetGrants;
use crate::linux::prctl::Settings;
use crate::linux::proc::{Facts, text_files};
use crate::linux::signal::{KeptSignals, SignalActions, ThreadSignals};
use crate::linux::sysv::Attached;
use crate::linux::task::{Executable, FirstThread, Process, ProgramName, VmSettings};
use crate::private::{Backing, PrivateRegion, Prot};
use crate::process_tree::stop;
use crate::stats::Phase;
use crate::store::{FOLDERS, Store};
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
    /// The file asks for another one that cannot be used.
    #[error("cannot run {program}")]
    Interpreter {
        /// The program as given.
        program: String,
        /// Which, and why.
        #[source]
        source: InterpreterError,
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
    /// The process that starts others cannot be made.
    #[error("cannot fork the process that starts others")]
    Starter(#[source] std::io::Error),
    /// A copy of another process cannot be made.
    #[error("cannot go on as a copy of another process")]
    Fork(#[source] Errno),
    /// A snapshot cannot be gone on from.
    #[error("cannot go on from snapshot '{name}'")]
    Snapshot {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// The host cannot confine the VMM.
    #[error("cannot confine the VMM (--confine)")]
    Confine(#[source] std::io::Error),
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
        let program = &config.command.program;
        let _span = tracing::debug_span!("start", program = %program.display()).entered();
        let named = match config.root {
            None => Some(executable::open_on_host(program)?),
            Some(_) => None,
        };
        let Prepared { mut files, limits, vm, children, rest } = prepare(config, named.as_ref())?;
        let Rest { command, env, libraries, inherited } = rest;
        let program = &command.program;
        let named = match named {
            Some(named) => named,
            None => executable::open_inside(program, &env, &files)?,
        };
        let chosen = executable::choose(&command, libraries, named, &mut files)?;
        chosen.check_addresses()?;
        let nofile = limits.soft(libc::RLIMIT_NOFILE);
        files.set_nofile(u32::try_from(nofile).unwrap_or(u32::MAX));
        files.set_max_size(limits.soft(libc::RLIMIT_FSIZE));
        for (fd, owned) in inherited {
            files.give(fd, owned)?;
        }
        let program = Program {
            path: program.as_os_str().as_bytes().to_vec(),
            args: chosen.args,
            env,
            files,
            executable: chosen.program,
            loader: chosen.loader,
            mask: 0,
            ignored: stop::ignored(),
            limits,
            kept: KeptSignals::default(),
        };
        load(program, &vm, Arc::new(children), started)
    }

    /// The same for a program that another one has started.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) fn start_next(
        new: NewProgram,
        vm: &VmSettings,
        children: Arc<Children>,
    ) -> Result<Arc<Process>, StartError> {
        let started = Instant::now();
        let NewProgram { path, args, env, files, loader, mask, ignored, limits, kept } = new;
        let name = String::from_utf8_lossy(&path).into_owned();
        let (executable, loader) = executable::parse_chosen(&files, loader, &name)?;
        let program =
            Program { path, args, env, files, executable, loader, mask, ignored, limits, kept };
        load(program, vm, children, started)
    }
}

/// What a run has before there is a VM.
pub(super) struct Prepared {
    pub(super) files: Files,
    pub(super) limits: Limits,
    pub(super) vm: VmSettings,
    pub(super) children: Children,
    pub(super) rest: Rest,
}

/// What of the request is about the program alone.
pub(super) struct Rest {
    pub(super) command: Command,
    pub(super) env: Vec<Vec<u8>>,
    pub(super) libraries: Libraries,
    pub(super) inherited: Vec<(i32, OwnedFd)>,
}

/// Sets up what the program may use, confines the calling thread, and forks the starter; `named` is a program that is
/// not inside.
pub(super) fn prepare(config: RunConfig, named: Option<&Opened>) -> Result<Prepared, StartError> {
    let (namespace, cwd) = namespace(&config, named)?;
    let confined = policy(&config);
    let mut paths = Paths::default();
    // By /proc/self/fd a program opens again what it has open.
    let given = config.stdio.iter().chain(config.inherited.iter().map(|(_, fd)| fd));
    given.for_each(|fd| paths.allow_given(fd.as_fd()));
    let mut files = Files::new(namespace, config.stdio, &cwd, config.umask)?;
    let limits = Limits::default();
    config.limits.iter().for_each(|(resource, most)| limits.lower(*resource, *most));
    // What that has read, this changes.
    confine::prepare(&confined).map_err(StartError::Confine)?;
    if let Some(removed) = &config.confine_files {
        let store = config.store.as_deref();
        allow_paths(&mut paths, store, &files, named, removed);
        if let Some(core) = &config.core {
            paths.allow_open(core.folder(), PathRight::MakeIn);
        }
        if let Some(parent) = config.socket.as_ref().and_then(|socket| socket.parent()) {
            paths.allow(parent, PathRight::RemoveFileIn);
        }
        paths.restrict(&confined).map_err(StartError::Confine)?;
    }
    let vm = VmSettings {
        memory_bytes: config.memory_bytes,
        store: config.store.clone(),
        vases: config.vases.clone(),
        umask: config.umask,
        net: config.net.clone(),
        tracer: config.tracer.clone(),
        profiler: config.profiler.clone(),
        core: config.core.clone(),
        backtraces: config.backtraces,
        disk: config.disk.clone(),
        // Of the first process only.
        debug: None,
        at_ready: None,
        copy_of_ready: None,
        confined,
    };
    let children = match &config.tree {
        None => Children::default(),
        Some(tree) => {
            files.keep_base();
            tree.begin(&files, &vm).map_err(StartError::Starter)?
        }
    };
    let (debug, at_ready) = (config.debug.clone(), config.at_ready.clone());
    let vm = VmSettings { debug, at_ready, ..vm };
    let RunConfig { command, env, libraries, inherited, .. } = config;
    let rest = Rest { command, env, libraries, inherited };
    Ok(Prepared { files, limits, vm, children, rest })
}

/// A program that is known and opened.
struct Program {
    path: Vec<u8>,
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    files: Files,
    executable: Parsed,
    loader: Option<Parsed>,
    mask: u64,
    ignored: u64,
    limits: Limits,
    kept: KeptSignals,
}

/// Creates a VM for a program.
fn load(
    program: Program,
    vm: &VmSettings,
    children: Arc<Children>,
    started: Instant,
) -> Result<Arc<Process>, StartError> {
    let Program { path, args, env, files, executable, loader, mask, ignored, limits, kept } =
        program;
    let name = String::from_utf8_lossy(&path).into_owned();
    let bad = |source| StartError::Elf { program: name.clone(), source };
    let mut empty = EmptyVm::new(vm, &children, started)?;
    let mut lap = empty.stats.laps();
    let machine = empty.kernel.machine().clone();
    let private = &empty.private;
    let stack_limit = limits.soft(libc::RLIMIT_STACK);
    private.keep_room_for_stack(stack_limit);
    let loaded = load::load(private, &executable.file, &executable.image).map_err(bad)?;
    // A guard page between program and heap, so that an overrun of one does not hit the other.
    private.set_heap(loaded.end + PAGE_SIZE);

    map_vdso(private).map_err(StartError::Vdso)?;
    let loader = loader.as_ref();
    let loader = loader.map(|loader| load::load_loader(private, &loader.file, &loader.image));
    let loader = loader.transpose().map_err(bad)?;

    if let Some(tracer) = &vm.tracer {
        tracer.starts(std::process::id(), &path, &args);
    }
    let mut random = [0; 16];
    fill_random(&mut random).map_err(StartError::Random)?;
    let contents = StackContents {
        args: &args,
        env: &env,
        exec_path: &path,
        aux: auxiliary_vector(&machine, &loaded, loader.as_ref()),
        random,
    };
    let built = stack::build(private, &contents, loaded.exec_stack, stack_limit);
    let built = built.map_err(StartError::Stack)?;
    let rip = loader.as_ref().map_or(loaded.entry, |loader| loader.entry);
    lap.ends(Phase::Load);
    empty.vcpu.regs = UserRegs { rip, rsp: built.rsp, ..UserRegs::default() };
    empty.vcpu.restore_all();

    let short = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
    let short = String::from_utf8_lossy(short).into_owned();
    let (signals, of_thread) = (SignalActions::ignoring(ignored), ThreadSignals::blocking(mask));
    kept.give(&signals, &of_thread);
    let first_thread = FirstThread {
        signals: of_thread,
        name: short.as_bytes().get(..15).unwrap_or(short.as_bytes()).to_vec(),
        clear_tid: 0,
        robust_list: 0,
        owner: None,
        others: Vec::new(),
    };
    let begins = Begins {
        program: ProgramName { path, short },
        executable: Executable { file: executable.file, bias: loaded.bias, end: loaded.end },
        files,
        limits,
        settings: Settings::default(),
        signals,
        facts: Facts::new(built),
        first_thread,
        held_by: None,
        sysv: Attached::default(),
    };
    let process = empty.begin(begins, vm, children)?;
    process.timers.put_aside(kept.intervals);
    Ok(process)
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

/// What the VMM's threads may still open, besides what the program was given open.
fn allow_paths(
    paths: &mut Paths,
    store: Option<&Path>,
    files: &Files,
    program: Option<&Opened>,
    removed: &[PathBuf],
) {
    paths.allow_usual();
    for (granted, is_writable) in files.granted() {
        let right = if is_writable { PathRight::All } else { PathRight::Read };
        paths.allow_open(granted, right);
    }
    if let Some(opened) = program {
        paths.allow_open(opened.file.as_fd(), PathRight::Read);
    }
    if let Some(store) = store.map(Path::to_owned).or_else(|| Store::default_path().ok()) {
        paths.allow_to_be_made(&store);
    }
    for path in removed {
        paths.allow(path, PathRight::All);
        path.parent().into_iter().for_each(|parent| paths.allow(parent, PathRight::RemoveIn));
    }
}

/// What the VMM's threads may ask of the host.
fn policy(config: &RunConfig) -> Policy {
    let NetGrants { all, connect, listen } = &config.net;
    let network = *all || !connect.is_empty() || !listen.is_empty();
    let is_writable = |grant: &Grant| grant.access == GrantAccess::ReadWrite;
    let is_socket = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
    };
    let given = config.stdio.iter().chain(config.inherited.iter().map(|(_, fd)| fd));
    let mut grants = config.root.iter().chain(&config.grants);
    // The memory that a tree has as `/tmp` is granted, too.
    let sockets = network
        || config.tmp.is_some()
        || grants.any(is_writable)
        || given.into_iter().any(is_socket);
    Policy { mode: config.confine, children: config.tree.is_some(), sockets, network }
}

/// The program's name space, and where in it the program starts; `named` is a program that is not
/// inside.
pub(super) fn namespace(
    config: &RunConfig,
    named: Option<&Opened>,
) -> Result<(Namespace, PathBuf), StartError> {
    // Where it starts is the user's choice alone.
    let mut grants: Vec<Grant> = config.root.iter().chain(&config.grants).cloned().collect();
    let cwd = config.cwd.clone().unwrap_or_else(|| {
        let host = std::env::current_dir().unwrap_or_default();
        let cwd = default_cwd(&grants, &host);
        // The tree's own `/tmp` is hidden by memory, unless something is granted there.
        let is_hidden = config.root.is_some()
            && cwd.starts_with(GUEST_PATH)
            && !config.grants.iter().any(|grant| cwd.starts_with(&grant.guest));
        if is_hidden { PathBuf::from("/") } else { cwd }
    });
    grants.extend(config.tmp.iter().map(|tmp| tmp.grant()));
    let mut list = None;
    if let Some(opened) = named
        && config.libraries == Libraries::Shown
        && opened.contents.is_dynamic()
    {
        grants.extend(libraries::grants(opened, &config.grants));
        list = File::open(libraries::LIST).ok();
    }
    let stores = config.store.clone().into_iter().chain(Store::usual_paths());
    let off_limits = OffLimits::stores(stores, &FOLDERS);
    let mut namespace = Namespace::new(&grants, off_limits, text_files())?.with_tty(config.tty);
    if config.root.is_some() {
        // Unless something is there.
        namespace.add_memory(GUEST_PATH.as_bytes());
    }
    for (path, file) in resolver::files(&config.net) {
        namespace.show(path.as_bytes(), Arc::new(file));
    }
    if let Some(list) = list {
        namespace.show(libraries::LIST.as_bytes(), Arc::new(list));
    }
    Ok((namespace, cwd))
}

/// This few bytes are returned completely or not at all (getrandom(2)).
pub(super) fn fill_random(bytes: &mut [u8; 16]) -> std::io::Result<()> {
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::io::retry_on_intr(|| rustix::rand::getrandom(bytes.as_mut_slice(), flags))?;
    Ok(())
}

fn auxiliary_vector(
    machine: &Machine,
    loaded: &Loaded,
    loader: Option<&Loaded>,
) -> Vec<(u64, u64)> {
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
        (libc::AT_BASE, loader.map_or(0, |loader| loader.bias)),
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
