//! Values of `spacejmp run`'s options: sizes, times, environment.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use vmm::host::Memory;

use crate::errors::Failure;
use crate::size;

/// Less does not suffice for a program's stack and the pages around it.
pub(crate) const MEMORY_MIN: u64 = 16 << 20;
/// A program's private region is 16 TiB.
pub(crate) const MEMORY_MAX: u64 = 16 << 40;
/// When the host does not report how much it has.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// Variables of our environment that a program gets by default: what it needs for the user's
/// language and terminal. None of them holds a secret.
const INHERITED: [&str; 8] =
    ["HOME", "LANG", "NO_COLOR", "PATH", "RUST_BACKTRACE", "TERM", "TZ", "USER"];

/// `512M`, `4G`: a number with a suffix of 1024s.
pub(crate) fn parse_memory(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size: give a number with K, M, G or T, as in 512M");
    match size::bytes(text).ok_or_else(bad)? {
        bytes if bytes < MEMORY_MIN => {
            Err(format!("{text} is too little: a program needs at least 16M"))
        }
        bytes if bytes <= MEMORY_MAX => Ok(bytes),
        _ => Err(format!("{text} is too much: a program can address 16T")),
    }
}

/// Half of the host's memory, or what is available or allowed to us if that is less.
pub(crate) fn default_memory(host: &Memory) -> u64 {
    [host.total_bytes.map(|bytes| bytes / 2), host.available_bytes, host.cgroup_limit_bytes]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(MEMORY_UNKNOWN)
        .clamp(MEMORY_MIN, MEMORY_MAX)
}

/// Seconds, fractions allowed.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_| format!("`{text}` is no number of seconds, as in 2.5"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && seconds <= 1e9 => Ok(time),
        _ => Err(format!("`{text}` is out of range: more than 0, at most 1e9 seconds")),
    }
}

/// `--cpus`.
pub(crate) fn parse_processors(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("give a number of processors, at least 1".to_owned()),
    }
}

/// The program cannot have so many.
pub(crate) fn no_processors(asked: usize, error: io::Error) -> Failure {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    Failure::new(format!("run on {asked} processors (--cpus)"), error)
        .help(Some(format!("this process may run on {usable}: give at most as many")))
}

/// `--file-size`.
pub(crate) fn parse_file_size(text: &str) -> Result<u64, String> {
    let bad =
        || format!("`{text}` is no size: give a number, or one with K, M, G or T, as in 512M");
    size::bytes(text).ok_or_else(bad)
}

/// The limits, for [`vmm::process::RunConfig::limits`].
pub(crate) fn limits_of(cpu_time: Option<u64>, file_size: Option<u64>) -> Vec<(u32, [u64; 2])> {
    // A second between the signals, for a program that has a handler for the first.
    let cpu_time = cpu_time.map(|seconds| (libc::RLIMIT_CPU, [seconds, seconds + 1]));
    let file_size = file_size.map(|bytes| (libc::RLIMIT_FSIZE, [bytes, bytes]));
    cpu_time.into_iter().chain(file_size).collect()
}

/// One `--env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EnvOption {
    /// `K=V`.
    Set(OsString, OsString),
    /// `K`: as on the host.
    Pass(OsString),
    /// `*`: all that the host has.
    PassAll,
}

/// `K=V`, `K` or `*`.
pub(crate) fn parse_env(text: &str) -> Result<EnvOption, String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("`{text}` has no name before `=`")),
        Some((name, value)) => Ok(EnvOption::Set(name.into(), value.into())),
        None if text.is_empty() => Err("a name is missing".to_owned()),
        None if text == "*" => Ok(EnvOption::PassAll),
        None => Ok(EnvOption::Pass(text.into())),
    }
}

/// From this much memory on, glibc's allocator is told to use huge pages for the heaps of
/// threads: it then extends them 2 MiB at a time with `mprotect`, not 4 KiB, which saves an exit
/// for each page (glibc 2.35 and later; others do not know the variable).
const HUGE_HEAPS_FROM: u64 = 512 << 20;

/// The program's environment: what is inherited by default, then the options in their order;
/// the last one for a name wins.
pub(crate) fn environment(
    host: impl Iterator<Item = (OsString, OsString)>,
    options: &[EnvOption],
    memory_bytes: u64,
) -> Vec<Vec<u8>> {
    let host: Vec<_> = host.collect();
    let mut chosen: Vec<(OsString, OsString)> =
        host.iter().filter(|(name, _)| is_inherited(name)).cloned().collect();
    if memory_bytes >= HUGE_HEAPS_FROM {
        chosen.push(("GLIBC_TUNABLES".into(), "glibc.malloc.hugetlb=2".into()));
    }
    let mut set = |name: &OsString, value: &OsString| {
        chosen.retain(|(other, _)| other != name);
        chosen.push((name.clone(), value.clone()));
    };
    for option in options {
        match option {
            EnvOption::Set(name, value) => set(name, value),
            EnvOption::PassAll => host.iter().for_each(|(name, value)| set(name, value)),
            EnvOption::Pass(name) => match host.iter().find(|(other, _)| other == name) {
                Some((name, value)) => set(name, value),
                None => {
                    let name = name.to_string_lossy();
                    tracing::warn!("--env {name}: the variable is not set");
                }
            },
        }
    }
    chosen.sort();
    chosen.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect()
}

fn is_inherited(name: &OsStr) -> bool {
    INHERITED.iter().any(|inherited| *inherited == name) || name.as_bytes().starts_with(b"LC_")
}

#[cfg(test)]
mod tests {
    use super::{
        Duration, INHERITED, MEMORY_MAX, MEMORY_MIN, Memory, OsString, default_memory, environment,
        parse_env, parse_memory, parse_timeout,
    };

    #[test]
    fn sizes_have_suffixes_of_1024_in_either_case() {
        assert_eq!(parse_memory("512M"), Ok(512 << 20));
        assert_eq!(parse_memory("4g"), Ok(4 << 30));
        assert_eq!(parse_memory("65536K"), Ok(64 << 20));
        assert_eq!(parse_memory("16777216"), Ok(MEMORY_MIN));
        assert_eq!(parse_memory("16T"), Ok(MEMORY_MAX));
    }

    #[test]
    fn nonsense_sizes_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "no size"),
            ("M", "no size"),
            ("-1M", "no size"),
            ("1.5G", "no size"),
            ("4GG", "no size"),
            ("4 G", "no size"),
            ("4\u{b5}", "no size"),
            ("0", "too little"),
            ("1M", "too little"),
            ("512", "too little"),
            ("17T", "too much"),
            ("99999999T", "too much"),
            ("99999999999999999999", "no size"),
        ] {
            let error = parse_memory(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_default_memory_is_the_least_of_what_bounds_it() {
        let memory = |total, available, limit| {
            default_memory(&Memory {
                total_bytes: total,
                available_bytes: available,
                cgroup_limit_bytes: limit,
            })
        };
        assert_eq!(memory(Some(8 << 30), Some(6 << 30), None), 4 << 30);
        assert_eq!(memory(Some(8 << 30), Some(1 << 30), None), 1 << 30);
        assert_eq!(memory(Some(8 << 30), Some(6 << 30), Some(2 << 30)), 2 << 30);
        assert_eq!(memory(Some(8 << 30), Some(1 << 20), None), MEMORY_MIN);
        assert_eq!(memory(None, None, None), 1 << 30);
    }

    #[test]
    fn times_may_have_fractions_and_must_be_positive() {
        assert_eq!(parse_timeout("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_timeout("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "0", "-1", "nan", "inf", "1e300", "1e-12", "2s", "1,5"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    fn host(list: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
        let list: Vec<(OsString, OsString)> =
            list.iter().map(|(name, value)| (name.into(), value.into())).collect();
        list.into_iter()
    }

    #[test]
    fn only_the_listed_variables_pass_by_themselves() {
        let given = [("TERM", "x"), ("LC_ALL", "C"), ("AWS_SECRET", "s"), ("LD_PRELOAD", "p")];
        let passed = environment(host(&given), &[], 0);
        assert_eq!(passed, [b"LC_ALL=C".to_vec(), b"TERM=x".to_vec()]);
        assert!(INHERITED.is_sorted());
    }

    #[test]
    fn an_option_gives_a_value_or_passes_the_hosts() {
        let given = [("TERM", "x"), ("TOKEN", "t"), ("EMPTY", "")];
        let options: Vec<_> = ["TOKEN", "A=b=c", "TERM=y", "EMPTY", "NONE", "A=d", "E="]
            .map(|text| parse_env(text).unwrap())
            .into();
        let passed = environment(host(&given), &options, 0);
        let text: Vec<String> =
            passed.into_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        assert_eq!(text, ["A=d", "E=", "EMPTY=", "TERM=y", "TOKEN=t"]);
        assert!(parse_env("=x").is_err() && parse_env("").is_err());
        let all: Vec<_> = ["A=1", "*", "TERM=y"].map(|text| parse_env(text).unwrap()).into();
        let given = [("A", "host's"), ("TERM", "x"), ("TOKEN", "t")];
        let passed = environment(host(&given), &all, 0);
        assert_eq!(passed, [b"A=host's".to_vec(), b"TERM=y".to_vec(), b"TOKEN=t".to_vec()]);
    }
}
