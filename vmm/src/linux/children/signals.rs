//! Signals between the processes of a run. They go by the host's kernel: the VMM of the other process
//! takes them from there. No signal leaves the run, whatever number the program names.
#![forbid(unsafe_code)]

use abi::Errno;

use crate::linux::signal::SigInfo;
use crate::linux::task::Process;
use crate::linux::timer::host::timer_signal;
use crate::process_tree::fork;
use crate::vm::kick::kick_signal;

/// Whether a VMM can pass a signal on to its program: the C library and the VMM use some themselves.
#[must_use]
pub(crate) fn passes_on(signal: i32) -> bool {
    const OF_C_LIBRARY: [i32; 2] = [32, 33];
    !OF_C_LIBRARY.contains(&signal) && signal != kick_signal() && signal != timer_signal()
}

/// Sends a signal to another process of the run; `None` only asks whether it is there.
///
/// # Errors
/// `ESRCH` for a process that does not exist in the run; `EPERM` for a signal that its VMM cannot pass
/// on.
pub(crate) fn send(process: &Process, pid: i32, info: Option<&SigInfo>) -> Result<(), Errno> {
    let children = &process.children;
    if !children.is_of_run(pid) {
        return Err(Errno::ESRCH);
    }
    let signal = info.map_or(0, |info| info.signo);
    if !passes_on(signal) {
        tracing::warn!(signal, "this signal cannot be sent to another process: its VMM uses it");
        return Err(Errno::EPERM);
    }
    // What a program queues has a negative code; for all others the kernel knows the sender.
    let bytes = info.filter(|info| info.code < 0).map(SigInfo::head_bytes);
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
