//! Signals between the processes of a run. They go by the host's kernel: the VMM of the other process
//! takes them from there. No signal leaves the run, whatever number the program names.
//!
//! Some signals mean something for the VMM itself: a fault raises them, or the C library or the VMM uses them. Those are
//! *carried* by another one, with what they are in its `siginfo_t`. So is one to a thread, which is to arrive there.
#![forbid(unsafe_code)]

use abi::Errno;

use crate::linux::signal::info::{SI_TKILL, SI_USER, SigInfo};
use crate::linux::task::Process;
use crate::linux::timer::host::timer_signal;
use crate::process_tree::fork;
use crate::process_tree::stop::STOPS;
use crate::vm::kick::kick_signal;

/// Whether a VMM can pass a real-time signal on to its program as it is: the C library and the VMM use some themselves.
#[must_use]
pub(crate) fn passes_on(signal: i32) -> bool {
    const OF_C_LIBRARY: [i32; 2] = [32, 33];
    !OF_C_LIBRARY.contains(&signal) && signal != kick_signal() && signal != timer_signal()
}

/// The signal that carries others: the last one, which is queued as often as it is sent.
#[must_use]
pub(crate) fn carrier() -> i32 {
    libc::SIGRTMAX()
}

/// `si_code` of a signal that carries another one.
const CARRIES: i32 = -0x5343;

/// Ordinary signals by which the host means nothing else than the sender did.
const AS_THEY_ARE: [i32; 20] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGKILL,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGWINCH,
    libc::SIGIO,
    libc::SIGPWR,
];

fn is_carried(info: &SigInfo) -> bool {
    let as_it_is = match info.signo {
        ..32 => AS_THEY_ARE.contains(&info.signo),
        signal => passes_on(signal) && !(signal == carrier() && info.code == CARRIES),
    };
    // To stop and continue processes is the host's.
    let of_host = [libc::SIGKILL, libc::SIGSTOP, libc::SIGCONT].contains(&info.signo)
        || STOPS.contains(&info.signo);
    // The host has its own things to say with this one.
    let says_more = info.signo == libc::SIGCHLD && info.code < SI_USER;
    !as_it_is || says_more || (info.code == SI_TKILL && !of_host)
}

/// The signal that carries this one.
fn carrying(info: &SigInfo) -> SigInfo {
    let (pid, signal) = (info.value & u64::from(u32::MAX), info.signo as u64);
    let [sigval, ..] = info.rest();
    SigInfo::new(carrier(), CARRIES, pid | signal << 32).with_errno(info.code).with_sigval(sigval)
}

/// What a signal carries, for one of the user `uid`'s processes; `None` if it is what it seems to be.
#[must_use]
pub(crate) fn carried(info: &SigInfo, uid: u32) -> Option<SigInfo> {
    let signal = (info.value >> 32) as i32;
    if info.signo != carrier() || info.code != CARRIES || !(1..=64).contains(&signal) {
        return None;
    }
    let (pid, [sigval, ..]) = (info.value & u64::from(u32::MAX), info.rest());
    Some(SigInfo::new(signal, info.errno(), pid | u64::from(uid) << 32).with_sigval(sigval))
}

/// Sends a signal to another process of the run; `None` only asks whether it is there.
///
/// # Errors
/// `ESRCH` for a process that does not exist in the run.
pub(crate) fn send(process: &Process, pid: i32, info: Option<&SigInfo>) -> Result<(), Errno> {
    let children = &process.children;
    if !children.is_of_run(pid) {
        return Err(Errno::ESRCH);
    }
    let carrying = info.filter(|info| is_carried(info)).map(carrying);
    let info = carrying.as_ref().or(info);
    let signal = info.map_or(0, |info| info.signo);
    // What a program queues has a negative code; for all others the kernel knows the sender.
    let bytes = info.filter(|info| info.code < 0 && info.code != SI_TKILL);
    let bytes = bytes.map(SigInfo::head_bytes);
    // Looked up again once the number is bound to a process: then it cannot be another one's.
    let sent = fork::signal(pid, signal, bytes.as_ref(), || children.is_of_run(pid));
    sent.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::ESRCH)))
}

/// The other processes of the run in a process group; all others for `None`.
pub(crate) fn members(process: &Process, group: Option<i32>) -> Vec<i32> {
    let Some(member) = process.children.member() else { return Vec::new() };
    let pids = member.registry().pids().into_iter().filter(|pid| *pid != process.pid());
    pids.filter(|pid| group.is_none_or(|group| fork::group_of(*pid).is_ok_and(|of| of == group)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{CARRIES, carried, carrier, carrying, is_carried};
    use crate::linux::signal::info::{SI_TKILL, SigInfo};

    const SENDER: u64 = 77 | 1000 << 32;

    #[test]
    fn what_is_carried_arrives_as_it_was() {
        for (signal, code) in
            [(libc::SIGSEGV, 0), (libc::SIGUSR1, SI_TKILL), (34, -1), (carrier(), i32::MIN)]
        {
            let info = SigInfo::new(signal, code, SENDER).with_sigval(u64::MAX - 5);
            let on_the_way = carrying(&info);
            assert_eq!(on_the_way.signo, carrier());
            assert!(on_the_way.code < 0, "a sender must not say less");
            assert_eq!(carried(&on_the_way, 1000), Some(info));
        }
    }

    #[test]
    fn what_looks_like_a_carrier_is_carried_itself_and_nothing_else_is_taken_for_one() {
        let fake = carrying(&SigInfo::new(libc::SIGBUS, 0, SENDER));
        assert!(
            is_carried(&fake)
                && carried(&carrying(&fake), 1000)
                    .is_some_and(|it| { (it.signo, it.code) == (fake.signo, fake.code) })
        );
        assert!(carried(&SigInfo::new(carrier(), -1, SENDER), 1000).is_none());
        assert!(carried(&SigInfo::new(carrier(), CARRIES, 65 << 32), 1000).is_none());
        assert!(!is_carried(&SigInfo::new(carrier(), -1, SENDER)));
        assert!(!is_carried(&SigInfo::new(libc::SIGKILL, SI_TKILL, SENDER)));
    }
}
