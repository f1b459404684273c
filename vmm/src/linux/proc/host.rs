//! The host's figures on our own threads, read from its `/proc/self`.

use crate::linux::task::Thread;

/// A host file on this process; empty where it does not exist.
fn read(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default()
}

/// The fields of a `stat` file after the name.
#[derive(Debug, Default)]
pub(super) struct Stat(Vec<String>);

impl Stat {
    /// Of one of our threads.
    pub(super) fn of_thread(thread: &Thread) -> Stat {
        Stat::parse(&read(&format!("task/{}/stat", thread.host.raw())))
    }

    /// Of all of them together: the program's, and the little that the event loop does.
    pub(super) fn of_process() -> Stat {
        Stat::parse(&read("stat"))
    }

    /// Of another process of the host; empty for one that is not there.
    pub(super) fn of_host_process(pid: i32) -> Stat {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        Stat::parse(&text.unwrap_or_default())
    }

    /// Of one of its threads.
    pub(super) fn of_host_thread(pid: i32, tid: i32) -> Stat {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"));
        Stat::parse(&text.unwrap_or_default())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn parse(text: &str) -> Stat {
        // The name may contain anything, including parentheses and spaces.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        Stat(rest.split_whitespace().map(str::to_owned).collect())
    }

    fn field(&self, number: usize) -> Option<&str> {
        // proc_pid_stat(5) counts from 1, and the number and the name have been removed.
        self.0.get(number.checked_sub(3)?).map(String::as_str)
    }

    /// A field by its number in `proc_pid_stat(5)`; 0 where the host does not show it.
    pub(super) fn number(&self, number: usize) -> i64 {
        self.field(number).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The host's letter for the state.
    pub(super) fn letter(&self) -> char {
        self.field(3)
            .and_then(|text| text.chars().next())
            .filter(char::is_ascii_alphabetic)
            .unwrap_or('S')
    }

    /// Running or sleeping, as far as a program is concerned: its vCPU runs, or waits in a
    /// call.
    pub(super) fn state(&self) -> char {
        match self.field(3) {
            Some("R") => 'R',
            Some("D") => 'D',
            _ => 'S',
        }
    }
}

/// Numbers of a file with lines `name: number`, for these names; 0 where one is missing.
fn numbers<const N: usize>(text: &str, names: [&str; N]) -> [u64; N] {
    names.map(|name| {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0)
    })
}

/// Voluntary and involuntary context switches of a thread.
pub(super) fn context_switches(thread: &Thread) -> [u64; 2] {
    let text = read(&format!("task/{}/status", thread.host.raw()));
    numbers(&text, ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"])
}

/// The fields of `/proc/PID/io`.
pub(super) const IO: [&str; 7] =
    ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"];

/// What this process has read and written: by the program, and to a small extent by the VMM.
pub(super) fn io(thread: Option<&Thread>) -> [u64; 7] {
    let text = match thread {
        Some(thread) => read(&format!("task/{}/io", thread.host.raw())),
        None => read("io"),
    };
    numbers(&text, IO)
}

/// The same of another process, or of one of its threads.
pub(super) fn io_of_other([pid, tid]: [i32; 2]) -> [u64; 7] {
    let path = match pid == tid {
        true => format!("/proc/{pid}/io"),
        false => format!("/proc/{pid}/task/{tid}/io"),
    };
    numbers(&std::fs::read_to_string(path).unwrap_or_default(), IO)
}

/// Their lines.
pub(super) fn put_io(of: &[u64; 7]) -> Vec<u8> {
    let lines = IO.iter().zip(of).map(|(name, number)| format!("{name}: {number}\n"));
    lines.collect::<String>().into_bytes()
}

/// Time on a processor, time waiting for one, and time slices, of one of our threads.
pub(super) fn schedstat(thread: &Thread) -> [u64; 3] {
    let text = read(&format!("task/{}/schedstat", thread.host.raw()));
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{Stat, numbers};

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = Stat::parse("42 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13\n");
        assert_eq!((stat.state(), stat.number(4), stat.number(14)), ('S', 1, 11));
        assert_eq!((stat.number(0), stat.number(99)), (0, 0));
        assert_eq!(Stat::parse("").state(), 'S');
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(numbers(text, ["voluntary_ctxt_switches", "none"]), [3, 0]);
    }
}
