//! Another program's side of a VM's control socket, and signals to its process.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::address::{VmRef, all, connect, own_uid};
use super::server::Question;
use crate::error::Remedy;
use crate::gdb::server::BEGUN;

/// How long a VM may take to answer. Its event loop answers at once, but the machine may be busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// An answer has no more bytes; a VM has a limited number of threads and segments.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A VM cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is none by that name or number, or none any more.
    #[error("there is no VM {vm} that runs")]
    Gone {
        /// As it was named.
        vm: VmRef,
    },
    /// It is another user's.
    #[error("VM {vm} is another user's")]
    NotYours {
        /// As it was named.
        vm: VmRef,
    },
    /// Its process is stopped, as by Ctrl-Z: nobody in it can answer.
    #[error("VM {vm} is stopped, and does not answer")]
    Stopped {
        /// As it was named.
        vm: VmRef,
    },
    /// Somebody else looks at its calls.
    #[error("the calls of VM {vm} are traced already")]
    Traced {
        /// As it was named.
        vm: VmRef,
    },
    /// It cannot be debugged.
    #[error(
        "VM {vm} cannot be debugged now: a gdb debugs it or is waited for (`--gdb`), it is profiled, or another program of its run has started it"
    )]
    NotDebugged {
        /// As it was named.
        vm: VmRef,
    },
    /// It cannot be snapshotted now, or not at all.
    #[error("VM {vm} cannot be snapshotted: {why}")]
    Refused {
        /// As it was named.
        vm: VmRef,
        /// As it says.
        why: String,
    },
    /// Its thread did not come to a place where it can be snapshotted.
    #[error("VM {vm} did not come to a place where it can be snapshotted, within {} seconds", PATIENCE.as_secs())]
    NoPlace {
        /// As it was named.
        vm: VmRef,
    },
    /// It is in a PID namespace in which its process cannot be named.
    #[error("VM {vm} is in another PID namespace, so that no signal can be sent to it from here")]
    Elsewhere {
        /// As it was named.
        vm: VmRef,
    },
    /// The host failed, or the VM did not answer.
    #[error("cannot {action} VM {vm}")]
    Host {
        /// What was done.
        action: &'static str,
        /// As it was named.
        vm: VmRef,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The list of sockets cannot be read.
    #[error("cannot read the list of sockets")]
    List(#[source] io::Error),
}

impl Remedy for ControlError {
    fn remedy(&self) -> Option<String> {
        match self {
            ControlError::Gone { .. } => {
                Some("`spacejmp ps --all` lists those that run".to_owned())
            }
            ControlError::NotYours { .. } => Some("ask as that user: sudo -u USER".to_owned()),
            ControlError::Elsewhere { .. } => {
                Some("stop it from inside of its container, or stop the container".to_owned())
            }
            ControlError::Stopped { .. } => Some(
                "let it go on: spacejmp kill --signal CONT VM, or `fg` in its shell".to_owned(),
            ),
            ControlError::Traced { .. } => Some(
                "end the other `spacejmp trace`, or look where `run --strace` writes".to_owned(),
            ),
            ControlError::NotDebugged { .. } => Some(
                "end the other gdb, or connect to the place that `run --gdb` has named".to_owned(),
            ),
            ControlError::NoPlace { .. } => Some(
                "`spacejmp stats VM` shows what its thread waits for; ask again when it runs, or when \
                 nobody else makes a snapshot of it"
                    .to_owned(),
            ),
            ControlError::Refused { .. } => Some(
                "`spacejmp snapshot --help` says which programs can be snapshotted".to_owned(),
            ),
            ControlError::Host { .. } | ControlError::List(_) => None,
        }
    }
}

/// A VM that ran when it was looked for.
#[derive(Debug)]
pub struct Vm {
    pub(super) vm: VmRef,
    pid: i32,
}

impl Vm {
    /// Looks for a VM of this user.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::NotYours`], and the host's.
    pub fn find(vm: VmRef) -> Result<Vm, ControlError> {
        let error = match connect(&vm) {
            Ok((_, pid)) => return Ok(Vm { vm, pid }),
            Err(error) => error,
        };
        let is_others = error.kind() == io::ErrorKind::PermissionDenied
            || all().is_ok_and(|all| all.iter().any(|(uid, one)| *one == vm && *uid != own_uid()));
        match error.kind() {
            io::ErrorKind::ConnectionRefused if !is_others => Err(ControlError::Gone { vm }),
            _ if is_others => Err(ControlError::NotYours { vm }),
            _ => Err(ControlError::Host { action: "reach", vm, source: error }),
        }
    }

    /// All VMs of this user in this network namespace, by number.
    ///
    /// # Errors
    /// [`ControlError::List`].
    pub fn all() -> Result<Vec<Vm>, ControlError> {
        let all = all().map_err(ControlError::List)?;
        let mut vms: Vec<Vm> = all
            .into_iter()
            .filter(|(uid, vm)| *uid == own_uid() && matches!(vm, VmRef::Pid(_)))
            .filter_map(|(_, vm)| Vm::find(vm).ok())
            .collect();
        vms.sort_by_key(|vm| vm.pid);
        Ok(vms)
    }

    /// The numbers and given names of this user's VMs, unsorted. One may have ended just now.
    ///
    /// # Errors
    /// [`ControlError::List`].
    pub fn names() -> Result<Vec<VmRef>, ControlError> {
        let all = all().map_err(ControlError::List)?;
        Ok(all.into_iter().filter(|(uid, _)| *uid == own_uid()).map(|(_, vm)| vm).collect())
    }

    /// The number of its process; 0 if that is in another PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its report, one JSON object: [`super::VmReport`]. Another version of the command may have made
    /// it.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::Stopped`], and when it does not answer.
    pub fn report(&self) -> Result<String, ControlError> {
        self.ask(Question::Report)
    }

    fn ask(&self, question: Question) -> Result<String, ControlError> {
        if self.is_stopped() {
            return Err(ControlError::Stopped { vm: self.vm.clone() });
        }
        let (stream, _) = connect(&self.vm).map_err(|error| self.failed(error))?;
        ask(stream, question).map_err(|error| self.failed(error))
    }

    /// Its calls from now on, lines as `run --strace` writes them, until it ends.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::Stopped`], [`ControlError::Traced`], and when it does not answer.
    pub fn trace(&self) -> Result<impl Read + use<>, ControlError> {
        let stream = self.begin(Question::Trace, "tracing\n")?;
        stream.ok_or_else(|| ControlError::Traced { vm: self.vm.clone() })
    }

    /// A connection for gdb's remote protocol. The program stands from its first packet on.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::Stopped`], [`ControlError::NotDebugged`], and when it does not answer.
    pub fn gdb(&self) -> Result<UnixStream, ControlError> {
        let stream = self.begin(Question::Gdb, BEGUN)?;
        stream.ok_or_else(|| ControlError::NotDebugged { vm: self.vm.clone() })
    }

    /// A connection that goes on after the answer, which is one line; `None` if it is another one than `expected`.
    fn begin(
        &self,
        question: Question,
        expected: &str,
    ) -> Result<Option<UnixStream>, ControlError> {
        if self.is_stopped() {
            return Err(ControlError::Stopped { vm: self.vm.clone() });
        }
        let failed = |error| self.failed(error);
        let (mut stream, _) = connect(&self.vm).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.write_all(format!("{}\n", question.line()).as_bytes()).map_err(failed)?;
        let mut begun = Vec::new();
        let mut byte = [0];
        while begun.last() != Some(&b'\n') && begun.len() < 16 {
            stream.read_exact(&mut byte).map_err(failed)?;
            begun.extend(byte);
        }
        stream.set_read_timeout(None).map_err(failed)?;
        Ok((begun == expected.as_bytes()).then_some(stream))
    }

    /// Whether its process is stopped. One that is stopped right after this answers when it goes on.
    pub(super) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // Behind the name, which may have any character in it.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        state.starts_with(['T', 't'])
    }

    pub(super) fn failed(&self, source: io::Error) -> ControlError {
        let vm = self.vm.clone();
        match source.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => ControlError::Gone { vm },
            _ => ControlError::Host { action: "ask", vm, source },
        }
    }

    /// Its process, to send it signals and to wait for its end.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::Elsewhere`], and the host's.
    pub fn process(&self) -> Result<VmProcess, ControlError> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.pid > 0) else {
            return Err(ControlError::Elsewhere { vm: self.vm.clone() });
        };
        let opened = pidfd_open(pid, PidfdFlags::empty());
        let fd = opened.map_err(|error| self.process_failed("open the process of", error))?;
        // It lives still, so the descriptor is not another process's with its number.
        let (_, pid) = connect(&self.vm).map_err(|error| self.failed(error))?;
        if pid != self.pid {
            return Err(ControlError::Gone { vm: self.vm.clone() });
        }
        Ok(VmProcess { vm: self.vm.clone(), fd })
    }

    fn process_failed(&self, action: &'static str, error: rustix::io::Errno) -> ControlError {
        process_failed(&self.vm, action, error)
    }
}

/// The process of a VM.
#[derive(Debug)]
pub struct VmProcess {
    vm: VmRef,
    fd: OwnedFd,
}

impl VmProcess {
    /// Sends it a signal: to the program, if it has a handler.
    ///
    /// # Errors
    /// [`ControlError::Gone`], and the host's.
    pub fn signal(&self, signal: Signal) -> Result<(), ControlError> {
        let sent = pidfd_send_signal(&self.fd, signal);
        sent.map_err(|error| process_failed(&self.vm, "send a signal to", error))
    }

    /// Waits until it has ended, but not longer than `limit`; returns whether it has.
    ///
    /// # Errors
    /// The host's.
    pub fn wait(&self, limit: Duration) -> Result<bool, ControlError> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let time = Timespec {
                tv_sec: left.as_secs().min(1 << 30).cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&time)) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(process_failed(&self.vm, "wait for", error)),
            }
        }
    }
}

fn process_failed(vm: &VmRef, action: &'static str, error: rustix::io::Errno) -> ControlError {
    let vm = vm.clone();
    match error {
        rustix::io::Errno::SRCH => ControlError::Gone { vm },
        rustix::io::Errno::PERM => ControlError::NotYours { vm },
        error => ControlError::Host { action, vm, source: error.into() },
    }
}

fn ask(mut stream: UnixStream, question: Question) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{}\n", question.line()).as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    if answer.ends_with('\n') {
        return Ok(answer);
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is not whole"))
}
