//! The event loop of a running process: what happens to it from outside the guest.
//!
//! It runs on its own thread beside the vCPU threads, and sleeps in one `epoll_wait`. Sources:
//! attention from our own threads (the last one has left, the process is stopping, a thread was
//! kicked), the time limit, signals from the host, timers of the program, and a tick once a second
//! while something needs it, and who asks by the control socket (`control`).
//!
//! It is also the one place that repeats kicks. A kick is a signal; a thread that was just about to
//! block in a host call misses it. So while any thread has not acknowledged its kick, all such
//! threads are kicked again every millisecond (`vm::kick` has the details).
//!
//! Console input is *not* a source. A guest thread that reads fd 0 reads the host's fd 0 in its own
//! `read` call: reading ahead into our own buffer would consume input that the program does not
//! ask for, including the next lines of a shell script or of the user's shell, and would make
//! `poll` and terminal modes report wrong states.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::timerfd::TimerFd;

use super::host_signals::{FROM_USER, HostSignal, HostSignals};
use super::timer_events::TimerEvents;
use crate::control::Control;
use crate::control::server::Server;
use crate::gdb::place::Listener;
use crate::linux::signal::info::{SI_KERNEL, SI_TKILL, SI_USER, SigInfo};
use crate::linux::task::{KickState, Outcome, Process};
use crate::linux::{signal, timer};
use crate::process_tree::stop::{self, Bell};
use crate::vm::kick::HostTid;

/// A second signal of the same kind within this time ends the program, whatever its handler
/// does with the first: a user who presses Ctrl-C twice means it.
const INSIST: Duration = Duration::from_secs(2);
/// How long threads that are inside a VAS with write access may take to leave it when the process
/// is told to end. A change that is not finished by then counts as unfinished.
const GRACE: Duration = Duration::from_secs(2);
/// How often they are checked meanwhile.
const GRACE_LOOK: Duration = Duration::from_millis(5);

/// What ends a process from outside.
#[derive(Debug, Clone, Copy)]
pub struct Supervise<'a> {
    /// Time the program may take from now on.
    pub timeout: Option<Duration>,
    /// Signals of the host that end the program or are forwarded to it.
    pub signals: Option<&'a HostSignals>,
    /// A pipe whose other end is closed when the run ends, and this process with it.
    pub end: Option<BorrowedFd<'a>>,
    /// Whether the user has started this process: a signal that is repeated is meant to end it.
    pub is_first: bool,
    /// How others can look at it.
    pub control: Option<&'a Control>,
    /// Where gdb connects to debug it.
    pub gdb: Option<&'a Arc<Listener>>,
}

impl Default for Supervise<'_> {
    fn default() -> Self {
        Supervise {
            timeout: None,
            signals: None,
            end: None,
            is_first: true,
            control: None,
            gdb: None,
        }
    }
}

/// The event loop could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoopError {
    #[error("cannot {action} in the event loop")]
    Events {
        action: &'static str,
        #[source]
        source: event_manager::Error,
    },
    #[error("cannot create a timer")]
    Timer(#[source] vmm_sys_util::errno::Error),
    #[error("cannot listen to timers")]
    TimerEvents(#[source] std::io::Error),
    #[error("cannot listen to signals that stop the program")]
    Bell(#[source] std::io::Error),
}

/// Serves events until no thread of `process` is left; signals on `ready` when it has started.
pub(super) fn until_empty(
    process: &Process,
    options: Supervise<'_>,
    ready: SyncSender<()>,
) -> Result<(), LoopError> {
    let failed = |action| move |source| LoopError::Events { action, source };
    let mut manager = EventManager::new_with_capacity(8).map_err(failed("wait for events"))?;
    let id = manager.add_subscriber(Supervisor::new(process, options)?);
    // Watching can fail only here, and `init` cannot return an error.
    if let Ok(supervisor) = manager.subscriber_mut(id)
        && let Some(source) = supervisor.failed.take()
    {
        return Err(LoopError::Events { action: "watch a file descriptor", source });
    }
    process.timers.serve_by(HostTid::own().raw());
    let of_run = process.children.member().and_then(|it| it.registry().processor_time_limit());
    if of_run.is_some()
        && let Err(errno) = process.timers.watch_run()
    {
        tracing::warn!(%errno, "cannot watch the processor time of the run (--cpu-time)");
    }
    let mut cpu = process.limits.get(libc::RLIMIT_CPU).unwrap_or([u64::MAX; 2]);
    // The run's comes first then: its time is this process's and that of others.
    if of_run.is_some_and(|limit| limit.as_secs() <= cpu[0]) {
        cpu = [u64::MAX; 2];
    }
    if let Err(errno) = process.timers.limit_cpu(cpu) {
        tracing::warn!(%errno, "cannot watch the limit of CPU time (ulimit -t)");
    }
    if let Err(errno) = process.timers.resume_intervals() {
        tracing::warn!(%errno, "a timer does not go on after execve");
    }
    // The waiting thread may have ended.
    let _ = ready.send(());
    let mut kicked = Instant::now();
    loop {
        let is_gathering = process.look_for_snapshot();
        let timeout_ms = match process.threads.kick_state(process.is_stopping()) {
            KickState::NoThreads => {
                if process.life.is_replaced()
                    && let Ok(supervisor) = manager.subscriber_mut(id)
                {
                    timer::stop_intervals(process, || while supervisor.handle_timers() {});
                }
                return Ok(());
            }
            // Calls that last are told.
            KickState::Acknowledged if is_gathering => GATHER_MS,
            KickState::Acknowledged if process.viewed.is_on() => LOOKED_AT_MS,
            KickState::Acknowledged => -1,
            KickState::Unacknowledged => KICKS_MS,
        };
        manager.run_with_timeout(timeout_ms).map_err(failed("wait for events"))?;
        process.viewed.tell_long_calls(&process.threads);
        if timeout_ms == KICKS_MS && kicked.elapsed() >= Duration::from_millis(1) {
            process.threads.kick_again(process.is_stopping());
            kicked = Instant::now();
        }
    }
}

/// How long the event loop waits while kicks are not acknowledged.
const KICKS_MS: i32 = 1;
/// While threads come to a stand for a snapshot.
const GATHER_MS: i32 = 10;
/// While somebody looks at the calls.
const LOOKED_AT_MS: i32 = 50;

const ATTENTION: u32 = 0;
const TIMEOUT: u32 = 1;
const SIGNALS: u32 = 2;
const SECOND: u32 = 3;
const TIMERS: u32 = 4;
const LOOK: u32 = 5;
const END: u32 = 6;
const BELL: u32 = 7;
/// And all above.
const CONTROL: u32 = 8;

/// A process that was told to end, and whose threads are still writing.
struct Ending {
    outcome: Outcome,
    /// When it ends in any case.
    limit: Instant,
    look: TimerFd,
}

/// The subscriber for all sources.
struct Supervisor<'a> {
    process: &'a Process,
    timeout: Option<TimerFd>,
    signals: Option<&'a HostSignals>,
    end: Option<BorrowedFd<'a>>,
    is_first: bool,
    control: Option<Server<'a>>,
    timers: TimerEvents,
    /// For signals that stop processes and that the program handles.
    bell: Option<Bell>,
    second: Option<TimerFd>,
    /// When each kind of signal was last forwarded to the program.
    handed: Vec<(i32, Instant)>,
    ending: Option<Ending>,
    failed: Option<event_manager::Error>,
}

impl<'a> Supervisor<'a> {
    fn new(process: &'a Process, options: Supervise<'a>) -> Result<Supervisor<'a>, LoopError> {
        // A timer set to zero never fires.
        let timeout =
            options.timeout.map(|time| new_timer(time.max(Duration::from_nanos(1)), None));
        let bell = process.children.member().map(|_| Bell::new());
        Ok(Supervisor {
            process,
            timeout: timeout.transpose()?,
            signals: options.signals,
            end: options.end,
            is_first: options.is_first,
            control: options.control.map(|control| Server::new(control, CONTROL)),
            timers: new_timers().map_err(LoopError::TimerEvents)?,
            bell: bell.transpose().map_err(LoopError::Bell)?,
            second: None,
            handed: Vec::new(),
            ending: None,
            failed: None,
        })
    }

    /// Starts the tick once something has requested it.
    fn start_second(&mut self, ops: &mut EventOps<'_>) {
        if self.second.is_some() || !self.process.wants_seconds() {
            return;
        }
        match watch_timer(Duration::from_secs(1), SECOND, ops) {
            Ok(timer) => self.second = Some(timer),
            // Without it the vDSO's clock drifts from the host's. Retried at the next event.
            Err(error) => tracing::warn!(
                error = %crate::error::chain(&error),
                "no tick once a second: the program's clock is not corrected"
            ),
        }
    }

    /// Ends the process when no thread is writing any more, immediately if none is. A second
    /// request ends it immediately.
    fn end(&mut self, outcome: Outcome, ops: &mut EventOps<'_>) {
        if self.ending.is_some() || !self.process.stop_writing(outcome.clone()) {
            return self.process.stop(outcome);
        }
        match watch_timer(GRACE_LOOK, LOOK, ops) {
            Ok(look) => {
                self.ending = Some(Ending { outcome, limit: Instant::now() + GRACE, look });
            }
            Err(error) => {
                tracing::warn!(
                    error = %crate::error::chain(&error),
                    "the program is ended without waiting for writing threads"
                );
                self.process.stop(outcome);
            }
        }
    }

    /// Whether the program controls jobs on the terminal: then it decides what the keys of a terminal mean,
    /// however often they are pressed.
    fn is_shell(&self) -> bool {
        self.process.signals.has_ignored(libc::SIGTSTP)
    }

    /// Handles some timers that have expired, and returns whether there were any.
    fn handle_timers(&self) -> bool {
        self.timers.read(|word, overruns| {
            timer::expired(self.process, word, overruns);
        })
    }

    fn look(&mut self) {
        let Some(ending) = &mut self.ending else {
            unreachable!("the timer that brings us here is a part of `ending`");
        };
        let _ = ending.look.wait();
        if self.process.vases.is_drained() || Instant::now() >= ending.limit {
            self.process.stop(ending.outcome.clone());
        }
    }

    fn on_signal(&mut self, signal: HostSignal, ops: &mut EventOps<'_>) {
        let HostSignal { number, sender, info } = signal;
        let children = &self.process.children;
        if number == libc::SIGCHLD {
            return self.on_child(&signal);
        }
        if number == libc::SIGCONT {
            // Who waits for a terminal is stopped again, if the process is still in the background.
            let threads = &self.process.threads;
            threads.all().iter().for_each(|thread| threads.kick_until_acknowledged(thread));
        }
        // From another program, or between the terminal and one that the user has not started.
        let is_for_program = children.is_of_run(sender)
            || !FROM_USER.contains(&number)
            || (sender == 0 && (!self.is_first || self.is_shell()));
        if is_for_program {
            let first = self.process.threads.get(self.process.pid());
            // To a thread: another process can only mean the first one.
            let _ = match first.filter(|_| info.code == SI_TKILL) {
                Some(thread) => signal::send_to_thread(self.process, &thread, info),
                None => signal::send_to_process(self.process, info),
            };
            return;
        }
        // The terminal's key for it ends every program; servers are told by it to end in order, by another process.
        let is_key = number == libc::SIGQUIT && sender == 0;
        let handled = !is_key && self.process.signals.is_handled(number);
        let now = Instant::now();
        let last = self.handed.iter().find(|(signal, _)| *signal == number).map(|(_, at)| *at);
        match judge(number, handled, last.map(|at| now.duration_since(at))) {
            Verdict::Ignore => {}
            Verdict::End => self.end(Outcome::Interrupted { signal: number as u8 }, ops),
            Verdict::EndNow => self.process.stop(Outcome::Interrupted { signal: number as u8 }),
            Verdict::HandOver => {
                self.handed.retain(|(signal, _)| *signal != number);
                self.handed.push((number, now));
                let info = SigInfo::new(number, SI_KERNEL, 0);
                // An ordinary signal carries nothing that could be lost.
                let _ = signal::send_to_process(self.process, info);
            }
        }
    }
}

impl Supervisor<'_> {
    /// Something happened to a child: the program is told, if it is one of its own. The host tells of
    /// one child when things happened to several, so the others are looked at, too.
    fn on_child(&self, signal: &HostSignal) {
        let process = self.process;
        let children = &process.children;
        let (nobody_waits, tell_of_stops) = process.signals.for_children();
        children.bury_orphans();
        if signal.info.code <= SI_USER {
            // A program has sent it; the host may have had another one to tell.
            let _ = signal::send_to_process(process, signal.info);
        }
        let has_ended =
            matches!(signal.info.code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED);
        if !has_ended && tell_of_stops && children.has(signal.sender) {
            let _ = signal::send_to_process(process, signal.info);
        }
        for ended in children.newly_ended() {
            let (pid, uid) = (u64::from(ended.pid.cast_unsigned()), u64::from(ended.uid));
            let info = SigInfo::new(libc::SIGCHLD, ended.code, pid | uid << 32).with_rest([
                u64::from(ended.status.cast_unsigned()),
                0,
                0,
            ]);
            if nobody_waits && children.take(ended.pid, libc::WEXITED).is_some() {
                children.wake_waiting(process);
            }
            // An ordinary signal carries nothing that could be lost.
            let _ = signal::send_to_process(process, info);
        }
    }
}

/// Without what is left of timers of a program before.
fn new_timers() -> std::io::Result<TimerEvents> {
    let timers = TimerEvents::block()?;
    while timers.read(|_, _| ()) {}
    Ok(timers)
}

fn new_timer(after: Duration, period: Option<Duration>) -> Result<TimerFd, LoopError> {
    let mut timer = TimerFd::new().map_err(LoopError::Timer)?;
    timer.reset(after, period).map_err(LoopError::Timer)?;
    Ok(timer)
}

/// A timer that fires every `period`, watched as `data`.
fn watch_timer(period: Duration, data: u32, ops: &mut EventOps<'_>) -> Result<TimerFd, LoopError> {
    let timer = new_timer(period, Some(period))?;
    let watched = ops.add(Events::with_data(&timer, data, EventSet::IN));
    watched.map_err(|source| LoopError::Events { action: "watch a timer", source })?;
    Ok(timer)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    HandOver,
    /// Threads that are writing may finish first.
    End,
    EndNow,
    Ignore,
}

/// Decides what to do with a signal. `since_last` is the time since the program was last sent one
/// of its kind.
fn judge(number: i32, handled: bool, since_last: Option<Duration>) -> Verdict {
    match (number, handled) {
        (libc::SIGWINCH, true) => Verdict::HandOver,
        (libc::SIGWINCH, false) => Verdict::Ignore,
        (libc::SIGQUIT, false) => Verdict::EndNow,
        (_, true) if since_last.is_none_or(|time| time > INSIST) => Verdict::HandOver,
        (_, true) => Verdict::EndNow,
        (_, false) => Verdict::End,
    }
}

impl MutEventSubscriber for Supervisor<'_> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut watch = |events: Events| {
            if let Err(e) = ops.add(events) {
                self.failed = Some(e);
            }
        };
        watch(Events::with_data(self.process.threads.attention(), ATTENTION, EventSet::IN));
        watch(Events::with_data(&self.timers, TIMERS, EventSet::IN));
        if let Some(timer) = &self.timeout {
            watch(Events::with_data(timer, TIMEOUT, EventSet::IN));
        }
        if let Some(end) = &self.end {
            watch(Events::with_data(end, END, EventSet::IN));
        }
        if let Some(bell) = &self.bell {
            watch(Events::with_data(bell, BELL, EventSet::IN));
        }
        if let Some(signals) = self.signals {
            watch(Events::with_data(signals, SIGNALS, EventSet::IN));
        }
        self.control.iter().flat_map(Server::events).for_each(watch);
        self.start_second(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            ATTENTION => {
                // Non-blocking: the count itself has no meaning.
                let _ = self.process.threads.attention().read();
                self.process.errands.run();
                self.start_second(ops);
            }
            TIMEOUT => {
                if let Some(timer) = &mut self.timeout {
                    let _ = timer.wait();
                }
                // An earlier request to end has already set its grace period.
                if self.ending.is_none() {
                    self.end(Outcome::TimedOut, ops);
                }
            }
            LOOK => self.look(),
            END => {
                // It stays readable.
                if let Some(end) = self.end.take() {
                    let _ = ops.remove(Events::empty(&end));
                }
                self.end(Outcome::Interrupted { signal: libc::SIGKILL as u8 }, ops);
            }
            TIMERS => _ = self.handle_timers(),
            BELL => stop::passing(|| {
                for (number, from) in self.bell.iter().flat_map(Bell::take) {
                    let code = if from == 0 { SI_KERNEL } else { SI_USER };
                    // An ordinary signal carries nothing that could be lost.
                    let info = SigInfo::new(number, code, from);
                    let _ = signal::send_to_process(self.process, info);
                }
            }),
            SIGNALS => stop::passing(|| {
                while let Some(signal) = self.signals.and_then(HostSignals::next) {
                    self.on_signal(signal, ops);
                }
            }),
            SECOND => {
                if let Some(timer) = &mut self.second {
                    let _ = timer.wait();
                }
                self.process.every_second();
            }
            data => {
                if let Some(control) = &mut self.control {
                    control.on_event(data, self.process, ops);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Verdict, judge};

    const JUST_NOW: Option<Duration> = Some(Duration::from_millis(500));
    const LONG_AGO: Option<Duration> = Some(Duration::from_secs(3));

    #[test]
    fn an_unhandled_signal_ends_the_program_at_once() {
        for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            assert_eq!(judge(number, false, None), Verdict::End);
        }
        assert_eq!(judge(libc::SIGQUIT, false, None), Verdict::EndNow);
    }

    #[test]
    fn a_handled_signal_reaches_the_program_unless_the_sender_insists() {
        for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
            assert_eq!(judge(number, true, None), Verdict::HandOver);
            assert_eq!(judge(number, true, JUST_NOW), Verdict::EndNow);
            assert_eq!(judge(number, true, LONG_AGO), Verdict::HandOver);
        }
    }

    #[test]
    fn a_changed_window_size_never_ends_anything() {
        assert_eq!(judge(libc::SIGWINCH, false, None), Verdict::Ignore);
        assert_eq!(judge(libc::SIGWINCH, true, JUST_NOW), Verdict::HandOver);
    }
}
