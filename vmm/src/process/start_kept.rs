//! From a snapshot to a first vCPU ready to go on.
//!
//! A snapshot is as good as whoever could write it. What it asks for is given within what is granted to this run: paths
//! are looked up where the program would look them up, and its executable is not shown more of the host than any
//! other program's: no directory beside it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use abi::Errno;

use super::assemble::{Begins, EmptyVm};
use super::config::RunConfig;
use super::executable::{self, Contents, Opened};
use super::kept_vases::{self, AttachError};
use super::start::{Prepared, Rest, StartError, fill_random, prepare};
use crate::error::Remedy;
use crate::files::{Files, KeptMapping, MemoryAccount, identity_of};
use crate::linux::children::forked::ForkedThread;
use crate::linux::limits::Limits;
use crate::linux::signal::ThreadSignals;
use crate::linux::snapshot::head::{Head, HeadError, KeptProcess, KeptThread, processor};
use crate::linux::snapshot::ready;
use crate::linux::sysv::Attached;
use crate::linux::task::{Executable, FirstThread, OtherThread, Process};
use crate::stats::Phase;
use crate::vm::{Vcpu, VmError};

/// How many resources have limits.
const RESOURCES: u32 = 16;

/// A snapshot that a run begins with.
#[derive(Debug)]
pub struct Snapshot {
    /// Its name, for messages.
    pub name: String,
    /// What it says.
    pub head: Head,
    /// Its memory, open to be read.
    pub memory: File,
}

/// Why a run cannot begin with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// What it says is not what a VM has written.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Another version has made it.
    #[error("it was made by version {found}, and this is {}", env!("CARGO_PKG_VERSION"))]
    Version {
        /// Which.
        found: String,
    },
    /// The processor is another one, or is offered otherwise.
    #[error("it was made on a host that offers other features of the processor")]
    Processor,
    /// Its memory is not all there.
    #[error("it is damaged: its file `memory` has {found} bytes instead of {expected}")]
    Memory {
        /// What there is.
        found: u64,
        /// What there was.
        expected: u64,
    },
    /// Its memory cannot be mapped.
    #[error("its memory cannot be mapped")]
    Map(#[source] Errno),
    /// Its memory cannot be looked at.
    #[error("its memory cannot be read")]
    Read(#[source] io::Error),
    /// A file that the program runs or has mapped is another one now.
    #[error("{path} has changed since it was made")]
    Changed {
        /// As the program sees it.
        path: String,
    },
    /// A file that the program had open, or mapped, cannot be opened.
    #[error("cannot open {path} again, which the program {had}")]
    Open {
        /// As the program sees it.
        path: String,
        /// What it had done with it.
        had: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The new process has a number that another thread of the program has.
    #[error(
        "this process got the number {number}, which the program has for another thread of its own"
    )]
    Number {
        /// Which.
        number: u32,
    },
    /// There may not be so many threads.
    #[error("it has {found} threads, and {most} are allowed here")]
    Threads {
        /// How many.
        found: usize,
        /// By the limit of processes, or by KVM.
        most: u64,
    },
    /// A thread has no processor.
    #[error("cannot make a vCPU for each of its threads")]
    Vcpu(#[source] VmError),
    /// An address space that the program had is not attached again.
    #[error(transparent)]
    Vases(#[from] AttachError),
    /// What it has for the processor's registers is refused.
    #[error("it is damaged: the processor refuses its registers")]
    Registers(#[source] VmError),
}

impl Remedy for SnapshotError {
    fn remedy(&self) -> Option<String> {
        match self {
            SnapshotError::Head(_) | SnapshotError::Memory { .. } | SnapshotError::Registers(_) => {
                Some("remove it with `spacejmp snapshot rm NAME`, and make it again".into())
            }
            SnapshotError::Version { .. }
            | SnapshotError::Processor
            | SnapshotError::Changed { .. } => {
                Some("make it again, from a run as it is now".into())
            }
            SnapshotError::Open { path, .. } => {
                let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
                Some(format!(
                    "grant it as it was granted then: --dir HOST:{}, or --root for a whole tree",
                    parent.display()
                ))
            }
            SnapshotError::Vases(error) => error.remedy(),
            SnapshotError::Number { .. } => Some("start it again: it gets another number".into()),
            SnapshotError::Threads { .. } => Some(
                "raise the limit of processes (`ulimit -u`), if that is what is too low".into(),
            ),
            SnapshotError::Map(_) | SnapshotError::Read(_) | SnapshotError::Vcpu(_) => None,
        }
    }
}

impl Process {
    /// Creates a VM with a process that goes on where a snapshot was made; [`Process::run_to_end`] runs it. A program
    /// that was ready gets the request's arguments, behind its own name, and its environment; any other has its own.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_from(config: RunConfig, from: Snapshot) -> Result<Arc<Process>, StartError> {
        let _span = tracing::debug_span!("start", snapshot = %from.name).entered();
        let name = from.name.clone();
        let failed = |source| StartError::Snapshot { name: name.clone(), source };
        start(config, from, &failed)
    }
}

fn start(
    mut config: RunConfig,
    Snapshot { head, memory, .. }: Snapshot,
    failed: &dyn Fn(SnapshotError) -> StartError,
) -> Result<Arc<Process>, StartError> {
    let started = Instant::now();
    if head.version != env!("CARGO_PKG_VERSION") {
        return Err(failed(SnapshotError::Version { found: head.version }));
    }
    let found = memory.metadata().map_err(|error| failed(SnapshotError::Read(error)))?.len();
    if found != head.memory_bytes {
        let expected = head.memory_bytes;
        return Err(failed(SnapshotError::Memory { found, expected }));
    }
    let mut kept = KeptProcess::decode(&head.process).map_err(|error| failed(error.into()))?;
    if head.ready.is_some_and(|tid| kept.thread_mut(tid).is_none()) {
        return Err(failed(HeadError::Damaged("which thread was ready").into()));
    }
    let mut visits = head.vases.iter().flat_map(|vases| &vases.visits);
    if visits.any(|visit| kept.thread_mut(visit.tid).is_none()) {
        return Err(failed(HeadError::Damaged("which threads are inside address spaces").into()));
    }
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    config.cwd = config.cwd.or_else(|| Some(path(&kept.files.cwd)));
    let named = match config.root {
        None => Some(without_library_path(executable::open_on_host(&path(&head.executable.host))?)),
        Some(_) => None,
    };
    let Prepared { mut files, limits, mut vm, children, rest } = prepare(config, named.as_ref())?;
    let Rest { command, env, inherited, .. } = rest;
    let named = match named {
        Some(named) => named,
        None => executable::open_inside(&path(&head.executable.inside), &[], &files)?,
    };
    let changed = |path: &[u8]| failed(SnapshotError::Changed { path: shown(path) });
    if identity_of(&named.file) != Ok(head.executable.identity) {
        return Err(changed(&named.path));
    }
    files.set_executable(&named.path, named.file.clone());
    lower(&limits, &kept.limits);
    files.set_nofile(u32::try_from(limits.soft(libc::RLIMIT_NOFILE)).unwrap_or(u32::MAX));
    files.set_max_size(limits.soft(libc::RLIMIT_FSIZE));
    files.umask(kept.files.umask);

    let mut mapped = Vec::new();
    for one in &kept.mapped {
        let file = map_again(&files, one, &named).map_err(failed)?;
        if one.identity.is_some_and(|identity| identity_of(&file) != Ok(identity)) {
            return Err(changed(&one.path));
        }
        mapped.push(file);
    }
    mapped.push(memory);
    let mut empty = EmptyVm::new(&vm, &children, started)?;
    if processor(empty.kernel.machine()) != head.processor {
        return Err(failed(SnapshotError::Processor));
    }
    let load = Instant::now();
    let account: Arc<dyn MemoryAccount> = empty.kernel.machine().mem.ledger().clone();
    let region = kept.region(mapped, &account).map_err(|error| failed(error.into()))?;
    empty.private.take_over(region).map_err(|errno| failed(SnapshotError::Map(errno)))?;
    renew(&empty, &kept)?;
    let arguments: Vec<_> = [kept.program.path.clone()].into_iter().chain(command.args).collect();
    if let Some(thread) = head.ready.and_then(|tid| kept.thread_mut(tid)) {
        let started_with = ready::bytes(&arguments, &env);
        // It comes back from the call with that.
        thread.state.regs.rax = started_with.len() as u64;
        vm.copy_of_ready = Some(started_with.into());
    }
    let KeptProcess { first, others, settings, actions, program, loaded, facts, .. } = kept;
    let refused = |error| failed(SnapshotError::Registers(error));
    set_registers(&mut empty.vcpu, &first.state).map_err(refused)?;
    let others = other_threads(&empty, others, &limits).map_err(failed)?;
    let KeptThread { tid, robust_list, state: thread } = first;
    empty.stats.phase(Phase::Load, load.elapsed());
    if let Some(tracer) = &vm.tracer {
        let argv = if head.ready.is_some() { arguments.as_slice() } else { &[] };
        tracer.starts(std::process::id(), &program.path, argv);
    }
    let [bias, end] = loaded;
    let begins = Begins {
        program,
        executable: Executable { file: named.file, bias, end },
        files,
        limits,
        settings,
        signals: actions,
        facts,
        first_thread: FirstThread {
            signals: ThreadSignals::of_copy(thread.mask, thread.alt),
            name: thread.name,
            clear_tid: thread.clear_tid,
            robust_list,
            // Other threads may wait for what it has locked by that number.
            owner: (!others.is_empty()).then_some(tid.cast_signed()),
            others,
        },
        held_by: None,
        sysv: Attached::default(),
    };
    let process = empty.begin(begins, &vm, Arc::new(children))?;
    // Files in /proc tell of a process that is there.
    for file in &kept.files.files {
        let open =
            |source| SnapshotError::Open { path: shown(&file.path), had: "had open", source };
        process.files.open_again(file).map_err(|errno| failed(open(errno)))?;
    }
    process.files.close_again(&kept.files);
    for (fd, owned) in inherited {
        process.files.give(fd, owned)?;
    }
    if let Some(vases) = &head.vases {
        kept_vases::attach(&process, vases, tid).map_err(|error| failed(error.into()))?;
        kept_vases::look_after(&process);
    }
    Ok(process)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A program that names no directory beside itself: of one that the user names, that may be shown.
fn without_library_path(mut opened: Opened) -> Opened {
    if let Contents::Program(image) = &mut opened.contents {
        image.library_path = None;
    }
    opened
}

/// The program has no more than it had allowed itself, and no more than this run has.
fn lower(limits: &Limits, kept: &Limits) {
    for resource in 0..RESOURCES {
        kept.get(resource).into_iter().for_each(|most| limits.lower(resource, most));
    }
}

/// A file that was mapped; the program's own needs no grant.
fn map_again(files: &Files, kept: &KeptMapping, named: &Opened) -> Result<File, SnapshotError> {
    let path = || shown(&kept.path);
    let file = match kept.path == named.path && !kept.writable {
        true => Ok(named.file.clone()),
        false => files.map_again(kept),
    };
    let open = |source| SnapshotError::Open { path: path(), had: "had mapped", source };
    let file = file.map_err(open)?;
    file.try_clone().map_err(SnapshotError::Read)
}

/// What must not be the same in two processes, as far as it is known where that is: the bytes that the host gave for
/// random numbers, and the number that the C library keeps where it has the thread's end noted. But with other threads, that
/// number stays: it is in all locks that the first one has, and calls that take one know it ([`Thread::owner`]).
///
/// [`Thread::owner`]: crate::linux::task::Thread::owner
fn renew(empty: &EmptyVm, kept: &KeptProcess) -> Result<(), StartError> {
    let mut random = [0; 16];
    fill_random(&mut random).map_err(StartError::Random)?;
    if let Some(at) = kept.at_random() {
        // What the program has unmapped since is not there.
        let _ = empty.private.copy_out(at, &random);
    }
    let mut number = [0; 4];
    let at = kept.first.state.clear_tid;
    let is_number = kept.others.is_empty()
        && at != 0
        && empty.private.copy_in(at, &mut number).is_ok()
        && u32::from_le_bytes(number) == kept.first.tid;
    if is_number {
        let _ = empty.private.copy_out(at, &std::process::id().to_le_bytes());
    }
    Ok(())
}

/// The threads besides the first, each with a vCPU. They keep their numbers, which the host need not have for them.
fn other_threads(
    empty: &EmptyVm,
    kept: Vec<KeptThread>,
    limits: &Limits,
) -> Result<Vec<OtherThread>, SnapshotError> {
    let machine = empty.kernel.machine();
    let most = limits.soft(libc::RLIMIT_NPROC).min(u64::from(machine.max_vcpus()));
    let numbers: Vec<u32> = kept.iter().map(|thread| thread.tid).collect();
    check_others(&numbers, std::process::id(), most)?;
    let with_vcpu = |KeptThread { tid, robust_list, state }| {
        let mut vcpu = empty.kernel.new_vcpu().map_err(SnapshotError::Vcpu)?;
        set_registers(&mut vcpu, &state).map_err(SnapshotError::Registers)?;
        let ForkedThread { mask, alt, name, clear_tid, .. } = state;
        let signals = ThreadSignals::of_copy(mask, alt);
        let tid = tid.cast_signed();
        Ok(OtherThread { tid, signals, name, clear_tid, robust_list, vcpu })
    };
    kept.into_iter().map(with_vcpu).collect()
}

/// Whether threads with these numbers can go on with a first one that has this number, where `most` are allowed.
fn check_others(others: &[u32], number: u32, most: u64) -> Result<(), SnapshotError> {
    if others.contains(&number) {
        return Err(SnapshotError::Number { number });
    }
    let found = others.len() + 1;
    // One is there already.
    if found > 1 && found as u64 > most {
        return Err(SnapshotError::Threads { found, most });
    }
    Ok(())
}

fn set_registers(vcpu: &mut Vcpu, thread: &ForkedThread) -> Result<(), VmError> {
    vcpu.regs = thread.regs;
    vcpu.restore_all();
    vcpu.set_fs_base(thread.fs_base);
    vcpu.set_gs_base(thread.gs_base);
    vcpu.set_fpu_state(&thread.fpu)
}

#[cfg(test)]
mod tests {
    use super::{SnapshotError, check_others};
    use crate::error::Remedy;

    #[test]
    fn a_process_whose_number_a_thread_of_it_has_does_not_begin() {
        assert!(check_others(&[8, 9], 7, 100).is_ok());
        let refused = check_others(&[8, 9], 9, 100).unwrap_err();
        assert!(matches!(refused, SnapshotError::Number { number: 9 }));
        assert!(refused.remedy().is_some_and(|remedy| remedy.contains("start it again")));
    }

    #[test]
    fn threads_beyond_the_limit_do_not_begin_and_the_first_always_does() {
        assert!(check_others(&[], 7, 0).is_ok());
        assert!(check_others(&[8], 7, 2).is_ok());
        let refused = check_others(&[8, 9], 7, 2);
        assert!(matches!(refused, Err(SnapshotError::Threads { found: 3, most: 2 })));
    }
}
