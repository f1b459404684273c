//! The processes of a run: how each of them comes to a VM of its own.
//!
//! Before a VMM has guest memory, threads or a program's descriptors, it forks its *starter*, which
//! keeps what every program of the run has: the granted directories, the store's path, the limits. To
//! start another process, the VMM asks its starter for a sibling ([`fork_sibling`]): a child of the
//! VMM that is a copy of the starter, and so holds nothing of a program's. It waits for the program
//! (`linux::children::vfork::order`), forks a starter of its own, and runs it.
//!
//! A starter ends when its VMM is gone, whatever ended that: the other end of its socket is closed.
//! So does a process that has not been told what to run. A process that runs a program goes on, as on
//! Linux, until the run ends: then the other end of a pipe that only the first VMM has is closed.

use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use super::host_signals::HostSignals;
use super::run::Ended;
use super::start::StartError;
use super::start_forked::AwaitsCopy;
use super::supervise::Supervise;
use super::{Outcome, Process};
use crate::confine::{self, Kind};
use crate::control::Control;
use crate::files::Files;
use crate::linux::children::vfork::order;
use crate::linux::children::{Children, ForkedProcess, MakeStarter, NewProgram};
use crate::linux::task::VmSettings;
use crate::process_tree::channel::Message;
use crate::process_tree::door::Door;
use crate::process_tree::fork::{self, Forked, fork_sibling};
use crate::process_tree::names::{self, Server};
use crate::process_tree::sysv::server::Client;
use crate::process_tree::{Channel, Member, Registry, sysv};
use crate::vm::MemoryLedger;

/// What the processes of a run have in common, beside what their programs may see.
#[derive(Debug, Clone)]
pub struct ProcessTree {
    registry: Arc<Registry>,
    names: Arc<Door>,
    sysv: Arc<Door>,
    /// Closed at the other end when the run has ended.
    end: Option<Arc<PipeReader>>,
    tell: fn(&str, &Outcome),
    kept: Arc<Vec<OwnedFd>>,
}

impl ProcessTree {
    /// For a run of so many processes, with so many open files together. Those that are left when the other end of `end` is closed end
    /// then. `tell` reports to the user how a program was ended.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(
        processes: u32,
        open_files: u64,
        end: Option<PipeReader>,
        tell: fn(&str, &Outcome),
    ) -> io::Result<ProcessTree> {
        let (registry, names) =
            (Arc::new(Registry::new(processes, open_files)?), Arc::new(Door::new()?));
        let (end, kept, sysv) = (end.map(Arc::new), Arc::default(), Arc::new(Door::new()?));
        Ok(ProcessTree { registry, names, sysv, end, tell, kept })
    }

    /// With descriptors that every process of the run keeps open.
    #[must_use]
    pub fn keeping(self, kept: Vec<OwnedFd>) -> ProcessTree {
        ProcessTree { kept: Arc::new(kept), ..self }
    }

    /// All processes of the run.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Enters this process, the first one, and forks its starter. The caller has one thread and no
    /// guest memory.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn begin(&self, files: &Files, vm: &VmSettings) -> io::Result<Children> {
        let full = || io::Error::other("the run has no place for a process");
        let member = self.registry.take().ok_or_else(full)?;
        member.set_pid(std::process::id().cast_signed());
        let server = self.names.take_server().zip(self.sysv.take_server());
        self.children(files, vm, member, server)
    }

    /// Forks this process's starter; with `server`, that keeps the names of files in memory.
    fn children(
        &self,
        files: &Files,
        vm: &VmSettings,
        member: Member,
        server: Option<(Channel, Channel)>,
    ) -> io::Result<Children> {
        let (here, there) = Channel::pair()?;
        match fork::fork()? {
            Forked::Parent(_) => {
                let (names, sysv) = (names::client(&self.names), Client::new(&self.sysv));
                Ok(Children::by(here, member, names, sysv, Arc::new(self.clone())))
            }
            Forked::Child => {
                drop(here);
                Starter { tree: self, files, vm }.serve(&there, server)
            }
        }
    }
}

impl MakeStarter for ProcessTree {
    /// A process can only be made in a session by one that is in it, and the starter cannot enter another one.
    /// So this one is forked now, without the guest's memory, by a host thread that serves no program.
    fn make(&self, process: &Process) -> io::Result<Channel> {
        process.machine.mem.keep_from_forks().map_err(io::Error::other)?;
        let (here, there) = Channel::pair()?;
        let begin = || match fork::fork_beside_threads() {
            Ok(Forked::Child) => {
                fork::block_all_signals();
                fork::unmap_shared();
                // Descriptors and all.
                let _ = process.files.abandon_names();
                let starter = Starter { tree: self, files: &process.files, vm: &process.vm };
                starter.serve(&there, None)
            }
            made => made,
        };
        std::thread::scope(|scope| {
            // It may come to run a whole VMM.
            let thread = std::thread::Builder::new().stack_size(STARTER_STACK_BYTES);
            let gone = |_| io::Error::other("a thread has panicked");
            thread.spawn_scoped(scope, begin)?.join().map_err(gone)?
        })?;
        Ok(here)
    }
}

/// As much as the host gives a process's first thread.
const STARTER_STACK_BYTES: usize = 8 << 20;

/// What a new process is told to do.
#[derive(Clone, Copy)]
enum Told {
    /// Run a program.
    Program,
    /// Go on as a copy of its parent, which may wait until it has let go of its memory.
    Fork { waits: bool },
}

/// In a starter, and in what it has made: what was there before the program.
#[derive(Clone, Copy)]
struct Starter<'a> {
    tree: &'a ProcessTree,
    files: &'a Files,
    vm: &'a VmSettings,
}

impl Starter<'_> {
    /// Makes processes until the VMM is gone. Nothing here may return: what comes after is the VMM's.
    fn serve(self, vmm: &Channel, server: Option<(Channel, Channel)>) -> ! {
        fork::block_all_signals();
        let _ = rustix::thread::set_name(c"starter");
        if let Err(error) = confine::enter(Kind::Keeper, &self.vm.confined) {
            self.fail(&format!("cannot confine the process that starts others: {error}"));
        }
        let end = self.tree.end.as_ref().map(|end| end.as_raw_fd());
        let trace = self.vm.tracer.as_ref().map(|tracer| tracer.to().as_raw_fd());
        let core = self.vm.core.as_ref().map(|core| core.folder().as_raw_fd());
        let sheets = self.vm.profiler.iter().flat_map(|profiler| profiler.sheets());
        let sheets = sheets.map(|sheet| sheet.as_fd().as_raw_fd());
        let disk = self.vm.disk.as_ref().map(|disk| disk.descriptor().as_raw_fd());
        let kept = self.tree.kept.iter().map(AsRawFd::as_raw_fd);
        let kept = kept.chain(core).chain(sheets).chain(disk);
        let names = [self.tree.names.descriptor(), self.tree.sysv.descriptor()].into_iter();
        let servers = server.iter().flat_map(|(names, sysv)| [names, sysv]);
        let names = names.chain(servers.map(AsRawFd::as_raw_fd));
        let keep = [vmm.as_raw_fd()].into_iter().chain(end).chain(trace).chain(kept).chain(names);
        fork::close_all_but(&keep.chain(self.files.base_descriptors()).collect::<Vec<_>>());
        occupy_standard_streams();
        let registry = &self.tree.registry;
        let mut server = server.map(|(names, sysv)| {
            let sysv = sysv::server::Server::new(sysv, registry, self.vm.memory_bytes);
            Server::new(names, self.files, registry, sysv)
        });
        loop {
            if let Some(server) = &mut server {
                server.serve_until(vmm, self.files);
            }
            let Ok(Some(request)) = vmm.receive() else { break };
            let answer = match fork_sibling() {
                Ok(Forked::Parent(pid)) => pid,
                Ok(Forked::Child) => {
                    // What this process has as a copy of the server is not for another VMM.
                    let of_server = server.as_ref().map(Server::descriptors).unwrap_or_default();
                    let of_names = self.files.abandon_names();
                    of_server.into_iter().chain(of_names).for_each(fork::close);
                    self.become_process(vmm, request)
                }
                Err(error) => error.raw_os_error().unwrap_or(libc::EAGAIN).saturating_neg(),
            };
            if vmm.send(&answer.to_le_bytes(), &[]).is_err() {
                break;
            }
        }
        fork::exit_now(0)
    }

    /// Waits in the new process to be told what it does, and does it.
    fn become_process(self, starters: &Channel, request: Message) -> ! {
        let pid = std::process::id().cast_signed();
        let place = request.bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let member = Member::at(&self.tree.registry, place);
        member.set_pid(pid);
        let Some(fd) = request.fds.into_iter().next() else { fork::die_by(libc::SIGKILL) };
        // The starter's end of its own connection is not for this process.
        fork::close(starters.as_raw_fd());
        let parent = Channel::from_fd(fd);
        loop {
            let Ok(Some(order)) = parent.receive() else { fork::die_by(libc::SIGKILL) };
            let Some((order, rest)) = order.bytes.split_first() else { continue };
            let number = rest.first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
            let answer = match *order {
                order::SETSID => fork::new_session(),
                order::SETPGID => fork::set_group(0, number).map(|()| 0),
                order::EXIT => fork::exit_now(number),
                order::PROGRAM => self.run(parent, member, Told::Program),
                order::FORK => self.run(parent, member, Told::Fork { waits: number != 0 }),
                _ => fork::die_by(number),
            };
            let refusal = |error: io::Error| error.raw_os_error().unwrap_or(libc::EPERM);
            let answer = answer.unwrap_or_else(|error| refusal(error).saturating_neg());
            let _ = parent.send(&answer.to_le_bytes(), &[]);
        }
    }

    /// Runs what the parent sends now.
    fn run(self, parent: Channel, member: Member, told: Told) -> ! {
        // Before the program's arguments are in memory.
        let children = match self.tree.children(self.files, self.vm, member, None) {
            Ok(children) => Arc::new(children),
            Err(error) => self.fail(&format!("cannot start another program: {error}")),
        };
        fork::keep_children();
        let signals = match HostSignals::block_all() {
            Ok(signals) => signals,
            Err(error) => self.fail(&format!("cannot listen to signals: {error}")),
        };
        // What the starter blocked beyond that.
        signals.block_only_these();
        // Without it, this process cannot be looked at; that is no reason not to run.
        let control = Control::listen(None).ok();
        let process = match told {
            Told::Program => self.start_program(parent, children),
            Told::Fork { waits } => self.start_copy(parent, children, waits),
        };
        let options = Supervise {
            timeout: None,
            signals: Some(&signals),
            end: self.tree.end.as_ref().map(|end| end.as_fd()),
            is_first: false,
            control: control.as_ref(),
            gdb: None,
        };
        let ended = match process {
            Ok(process) => {
                process.children.share_names(&process.files, false);
                Process::run_programs(process, options)
            }
            Err(error) => self.fail(&crate::error::chain(&error)),
        };
        self.end(&ended)
    }

    fn start_program(
        self,
        parent: Channel,
        children: Arc<Children>,
    ) -> Result<Arc<Process>, StartError> {
        let Ok(Some(message)) = parent.receive() else { fork::die_by(libc::SIGKILL) };
        drop(parent);
        // What the program inherits in memory, it may also let grow.
        let ledger = Arc::new(MemoryLedger::default());
        ledger.begin(self.vm.memory_bytes);
        children.member().cloned().into_iter().for_each(|member| ledger.share(member));
        let new = NewProgram::decode(&message.bytes, message.fds, self.files, ledger);
        let new = match new {
            Ok(new) => new,
            Err(errno) => self.fail(&format!("cannot take over a program's files: {errno}")),
        };
        Process::start_next(new, self.vm, children)
    }

    fn start_copy(
        self,
        parent: Channel,
        children: Arc<Children>,
        waits: bool,
    ) -> Result<Arc<Process>, StartError> {
        let empty = AwaitsCopy::new(self.vm, &children)?;
        let Ok(Some(message)) = parent.receive() else { fork::die_by(libc::SIGKILL) };
        let forked = ForkedProcess::decode(&message.bytes, message.fds, self.files, empty.ledger());
        let forked = forked.map_err(StartError::Fork)?;
        empty.begin(forked, Arc::new(parent), waits, self.vm, children)
    }

    /// Ends this process as its program ended.
    fn end(self, ended: &Ended) -> ! {
        if !matches!(ended.outcome, Outcome::Killed { ref report, .. } if report.is_empty()) {
            (self.tree.tell)(&ended.name, &ended.outcome);
        }
        match ended.outcome {
            Outcome::Exited(status) => fork::exit_now(i32::from(status)),
            Outcome::Killed { signal, .. } | Outcome::Interrupted { signal } => {
                fork::die_by(i32::from(signal))
            }
            Outcome::OutOfMemory { .. } | Outcome::TimedOut => fork::die_by(libc::SIGKILL),
            Outcome::HostFailed(_) => fork::exit_now(125),
        }
    }

    fn fail(self, what: &str) -> ! {
        self.end(&Ended::failed("a program", what))
    }
}

/// The numbers 0 and 1 belong to nothing: a file opened later must not be taken for them.
fn occupy_standard_streams() {
    for _ in 0..2 {
        let null = File::options().read(true).write(true).open("/dev/null");
        let _ = null.map(|file| OwnedFd::from(file).into_raw_fd());
    }
}
