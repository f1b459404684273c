//! `run --strace` and `trace`: the calls of a program, a line each, as strace prints them.
//!
//! - here: who writes which line when; `sink`: to what; `viewed`: of a program that runs already
//! - `signatures`: which arguments a call has; `values`: how they look; `names`: constants
//!
//! A line is one `write` to a file that appends, so that several processes of a run can share it.
//! It comes when the call ends. A call that has not ended after a tenth of a second is told as far as it
//! is known, by a thread of its own, and finished by another line: `<unfinished ...>`, `resumed`.
//!
//! Switches that the guest kernel makes by itself would be missing: in a traced run it makes none
//! (`SwitchTables::leave_all_to_vmm`). One that is traced later makes them, and they are not told. A run that is not traced
//! pays two comparisons a call.
#![forbid(unsafe_code)]

mod names;
mod signatures;
mod sink;
mod values;
mod viewed;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use abi::Errno;

use signatures::{Kind, Signature};
use sink::Sink;
use values::{Values, pointer, quoted};
pub use viewed::Viewed;

use super::signal::SigInfo;
use super::signal::name::signal_name;
use super::task::{Outcome, ThreadCtx};
use crate::confine::{self, Policy};

/// How long a call may last before it is told unfinished.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether [`Tracer`] knows the arguments of a call by this name.
#[must_use]
pub fn knows(name: &str) -> bool {
    signatures::signature(name).is_some()
}

/// Writes the calls of a program.
#[derive(Debug)]
pub struct Tracer {
    to: Sink,
    began: Instant,
    /// Calls that have not ended, by thread.
    pending: Mutex<BTreeMap<i32, Pending>>,
    failed: AtomicBool,
    /// The thread that tells of calls that last has been started in this process.
    watched: AtomicBool,
}

#[derive(Debug)]
struct Pending {
    /// The line so far.
    line: String,
    since: Instant,
    /// It has been told unfinished.
    told: bool,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    /// It returned, or failed.
    Returned(Result<u64, Errno>),
    /// It is made again after a signal, always or unless a handler forbids it.
    Again {
        /// Whatever handler runs.
        always: bool,
    },
    /// It does not return.
    Never,
}

/// What is known of a call when it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// Its name, if it has one.
    pub(crate) name: Option<&'a str>,
    pub(crate) number: u64,
    pub(crate) args: [u64; 6],
}

impl Call<'_> {
    fn name(&self) -> String {
        self.name.map_or_else(|| format!("syscall_{:#x}", self.number), str::to_owned)
    }

    fn signature(&self) -> Option<&'static Signature> {
        self.name.and_then(signatures::signature)
    }
}

impl Tracer {
    /// Writes to `to`, which should append.
    #[must_use]
    pub fn new(to: File) -> Arc<Tracer> {
        Tracer::to_sink(Sink::File(to))
    }

    fn to_sink(to: Sink) -> Arc<Tracer> {
        let pending = Mutex::default();
        let tracer = Tracer {
            to,
            began: Instant::now(),
            pending,
            failed: AtomicBool::new(false),
            watched: AtomicBool::new(false),
        };
        Arc::new(tracer)
    }

    /// What it writes to.
    pub(crate) fn to(&self) -> BorrowedFd<'_> {
        self.to.fd()
    }

    /// Starts the thread that tells of calls that last.
    pub(crate) fn watch(self: &Arc<Self>, policy: &Policy) {
        if self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let watched = Arc::downgrade(self);
        let watch = std::thread::Builder::new().name("strace".to_owned());
        // Without it, a call that hangs is told at the end of the run.
        let policy = *policy;
        let watch = watch.spawn(move || match confine::enter(confine::Kind::Watch, &policy) {
            Ok(()) => watch_for_long_calls(&watched),
            Err(error) => tracing::warn!("calls that last are not told: {error}"),
        });
        if let Err(error) = watch {
            tracing::warn!("cannot start the thread that tells of calls that last: {error}");
        }
    }

    /// A program begins, as if it were the end of the `execve` that started it.
    pub(crate) fn starts(&self, pid: u32, program: &[u8], argv: &[Vec<u8>]) {
        let argv: Vec<String> = argv.iter().map(|arg| quoted(arg)).collect();
        let (prefix, program) = (self.prefix(pid.cast_signed(), Instant::now()), quoted(program));
        self.tell(&format!("{prefix}execve({program}, [{}], ...) = 0\n", argv.join(", ")));
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<i32, Pending>> {
        self.pending.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn prefix(&self, tid: i32, at: Instant) -> String {
        format!("{tid:<7} {:>11.6} ", at.duration_since(self.began).as_secs_f64())
    }

    /// Writes one line.
    fn tell(&self, line: &str) {
        if let Err(error) = self.to.tell(line)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            match self.to {
                Sink::File(_) => {
                    tracing::warn!("cannot write the trace, which is not whole: {error}")
                }
                // It ends with its viewer, when the event loop comes to know.
                Sink::Viewer(..) => tracing::debug!("who looked at the calls has gone: {error}"),
            }
        }
    }

    /// The calling thread begins a call.
    pub(crate) fn begins(&self, ctx: &ThreadCtx<'_>, call: &Call<'_>) {
        let since = Instant::now();
        let mut line = self.prefix(ctx.thread.tid, since) + &call.name() + "(";
        let values = Values { user: ctx.user(), args: &call.args, result: 0 };
        line += &render(&values, call, |filled_before| !filled_before);
        self.pending().insert(ctx.thread.tid, Pending { line, since, told: false });
    }

    /// The call ends that the calling thread began last.
    pub(crate) fn ends(&self, ctx: &ThreadCtx<'_>, call: &Call<'_>, ended: Ended) {
        let Some(pending) = self.pending().remove(&ctx.thread.tid) else { return };
        let now = Instant::now();
        let mut line = if pending.told {
            self.prefix(ctx.thread.tid, now) + "<... " + &call.name() + " resumed>"
        } else {
            pending.line
        };
        let result = match ended {
            Ended::Returned(Ok(value)) => value.cast_signed(),
            _ => -1,
        };
        let values = Values { user: ctx.user(), args: &call.args, result };
        line += &render(&values, call, |filled_before| filled_before);
        let shown = match ended {
            Ended::Returned(Ok(value)) => self.result(&values, call, value),
            Ended::Returned(Err(errno)) => match errno.name() {
                Some(name) => format!("-1 {name} ({})", errno.text()),
                None => format!("-1 errno {}", errno.raw()),
            },
            Ended::Again { always: false } => "? ERESTARTSYS (made again)".to_owned(),
            Ended::Again { always: true } => "? ERESTARTNOINTR (made again)".to_owned(),
            Ended::Never => "?".to_owned(),
        };
        let took = now.duration_since(pending.since).as_secs_f64();
        self.tell(&format!("{line}) = {shown} <{took:.6}>\n"));
    }

    fn result(&self, values: &Values<'_>, call: &Call<'_>, value: u64) -> String {
        let signature = call.signature();
        if signature.is_some_and(|signature| signature.returns_ptr) {
            return pointer(value);
        }
        let first = signature.and_then(|signature| signature.args.first());
        let polled = match first {
            Some(Kind::Polls(count)) if value != 0 => values.polled(0, *count),
            _ => None,
        };
        polled.map_or_else(|| format!("{}", value as i64), |polled| format!("{value} ({polled})"))
    }

    /// A signal is delivered to a thread.
    pub(crate) fn signal(&self, tid: i32, info: &SigInfo) {
        let prefix = self.prefix(tid, Instant::now());
        let name = signal_name(u8::try_from(info.signo).unwrap_or(0));
        let (code, value) = (info.code, info.value);
        self.tell(&format!("{prefix}--- {name} {{si_code={code}, value={value:#x}}} ---\n"));
    }

    /// The program has ended.
    pub fn end(&self, pid: i32, outcome: &Outcome) {
        let left = std::mem::take(&mut *self.pending());
        for pending in left.values().filter(|pending| !pending.told) {
            self.tell(&format!("{} <unfinished ...>\n", pending.line));
        }
        let how = match outcome {
            Outcome::Exited(status) => format!("exited with {status}"),
            Outcome::Killed { signal, .. } => format!("killed by {}", signal_name(*signal)),
            _ => "ended by spacejmp".to_owned(),
        };
        self.tell(&format!("{}+++ {how} +++\n", self.prefix(pid, Instant::now())));
    }

    /// Tells of calls that have lasted long and are not told yet.
    fn tell_long_calls(&self) {
        let now = Instant::now();
        let mut lines = Vec::new();
        for pending in self.pending().values_mut() {
            if !pending.told && now.duration_since(pending.since) >= PATIENCE {
                pending.told = true;
                lines.push(format!("{} <unfinished ...>\n", pending.line));
            }
        }
        for line in lines {
            self.tell(&line);
        }
    }
}

fn watch_for_long_calls(tracer: &Weak<Tracer>) {
    while let Some(tracer) = tracer.upgrade() {
        tracer.tell_long_calls();
        drop(tracer);
        std::thread::sleep(PATIENCE / 2);
    }
}

/// The arguments that `which` picks, by their kind and whether they come only with the call's end:
/// everything from the first that the call fills, as strace divides them.
fn render(values: &Values<'_>, call: &Call<'_>, which: impl Fn(bool) -> bool) -> String {
    let every = Signature { args: vec![Kind::Hex; 6], returns_ptr: false };
    let signature = call.signature().unwrap_or(&every);
    let mut text = String::new();
    let mut filled = false;
    for (index, kind) in signature.args.iter().enumerate() {
        filled |= kind.is_filled();
        if which(filled) {
            let comma = if index == 0 { "" } else { ", " };
            text += comma;
            text += &values.render(*kind, index);
        }
    }
    text
}
