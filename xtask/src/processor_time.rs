//! The time that processes took of the processors, which other work on the machine does not change.

use std::fs;
use std::process::{Child, ExitStatus};

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Linux counts the time of processes in these.
const TICK_MILLISECONDS: u64 = 10;

/// Waits for its end, and returns the milliseconds that it took, with what it started and waited for.
///
/// # Errors
/// That it cannot be waited for, or that `/proc` does not say.
pub(crate) fn of_ended(child: &mut Child) -> Result<(ExitStatus, u64)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("it has no number")?;
    // Its times are there until it is waited for.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let time = milliseconds(&stat).context("no times in /proc")?;
    Ok((child.wait()?, time))
}

/// The milliseconds of this process and of all that it has waited for; 0 where `/proc` does not say.
pub(crate) fn so_far() -> u64 {
    fs::read_to_string("/proc/self/stat").ok().and_then(|stat| milliseconds(&stat)).unwrap_or(0)
}

/// utime, stime, cutime and cstime: fields 14 to 17 of proc(5).
fn milliseconds(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> =
        fields.split_whitespace().skip(11).take(4).filter_map(|n| n.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum::<u64>() * TICK_MILLISECONDS)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_processor_time_is_that_of_the_process_and_of_its_children() {
        let stat = "17 (a b) c) Z 1 17 17 0 -1 4227084 0 0 0 0 3 4 50 600 20 0 1 0 99";
        assert_eq!(milliseconds(stat), Some(6570));
        assert_eq!(milliseconds("17 (sh) Z 1"), None);
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let (status, _) = of_ended(&mut child).unwrap();
        assert_eq!(status.code(), Some(3));
    }
}
