//! The fuzz targets on random inputs, for a given time: what can be had on any toolchain. Nothing guides it,
//! as coverage guides libFuzzer: half of the inputs are noise, the others are changed from what is known to be accepted or to lead far.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::guests;
use crate::kvm;
use crate::{fuzz, fuzz_handover, fuzz_snapshot, fuzz_sysv};

/// Longest input.
const BYTES_MAX: u64 = 2000;
/// Inputs between two looks at the clock.
const ROUND: u64 = 16;

/// One target, with inputs to begin with.
#[derive(Debug)]
pub struct Target {
    /// Its name, as in `fuzz/fuzz_targets`.
    pub name: &'static str,
    begins: &'static [&'static [u8]],
    check: fn(&[u8]),
}

/// All targets of `fuzz/` but `kv_requests`, which is of another workspace's crate.
pub const TARGETS: &[Target] = &[
    Target { name: "archive", begins: &[], check: fuzz::archive },
    Target { name: "calls", begins: &[], check: |bytes| { let _ = fuzz::calls(&guests::rust("fuzz_calls"), bytes); } },
    Target {
        name: "control_requests",
        begins: &[b"\xffreport\n", b"\x01alive\n", b"\x03trace\n"],
        check: |bytes| { let _ = fuzz::control_requests(bytes); },
    },
    Target { name: "elf", begins: &[b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0"], check: fuzz::elf },
    Target {
        name: "gdb_packets",
        begins: &[
            b"qSupported:multiprocess+\n?\ng\nHg10\nm1000,40\nvCont;s:p10.10;c",
            b"qXfer:features:read:target.xml:0,7ff\nqXfer:threads:read::0,100\nqXfer:siginfo:read::0,80",
            b"vFile:open:2f6574632f,0,0\nvFile:pread:1,100,0\nvFile:fstat:1\nvFile:close:1",
            b"Z2,1008,8\nz4,1000,4\nM1000,2:90cc\nX1000,1:a\nZ0,1000,1\nz0,1000,1\nP0=1122334455667788\nQPassSignals:1;e\nqRcmd,766173\nk",
        ],
        check: |bytes| { let _ = fuzz::gdb_packets(bytes); },
    },
    Target { name: "handover", begins: &[], check: |bytes| { let _ = fuzz_handover::handover(bytes, bytes.len() as u8); } },
    Target { name: "header", begins: &[], check: fuzz::header },
    Target { name: "heap", begins: &[b"\0", b"\x01", b"\x02"], check: |bytes| { let _ = fuzz::heap(bytes); } },
    Target { name: "manifest", begins: &[], check: fuzz::manifest },
    Target { name: "snapshot", begins: &[], check: |bytes| { let _ = fuzz_snapshot::snapshot(bytes); } },
    Target {
        name: "sockets",
        begins: &[&[1, 0], &[2, 0], &[10, 0], &[20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]],
        check: |bytes| { let _ = fuzz::sockets(bytes); },
    },
    Target { name: "sysv_questions", begins: &[], check: |bytes| { let _ = fuzz_sysv::questions(bytes); } },
    Target {
        name: "versions_files",
        begins: &[b"SJRC", b"SJRJ\x02", b"SJMPLOG\n\x01\0\0\0", b"SJMPRT2\n", b"SJMPROT\n"],
        check: |bytes| { let _ = fuzz::versions_files(bytes); },
    },
    Target { name: "versions_segment", begins: &[b""], check: |bytes| { let _ = fuzz::versions_segment(bytes); } },
];

impl Target {
    /// Gives it an input.
    ///
    /// # Panics
    /// Where a check fails.
    pub fn check(&self, input: &[u8]) {
        (self.check)(input);
    }

    /// Whether this host can run it.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.name != "calls" || kvm::missing().is_none()
    }
}

/// What a target has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// How many inputs.
    pub inputs: u64,
    /// Processor time that they took.
    pub processor_time: Duration,
}

/// Numbers that follow from a seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// An input of a target, by its number.
#[must_use]
pub fn input(target: &Target, seed: u64, number: u64) -> Vec<u8> {
    let mut random = Random(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
    let noise = |random: &mut Random, bytes: u64| -> Vec<u8> {
        (0..random.next() % bytes).map(|_| random.next() as u8).collect()
    };
    let Some(begin) = target.begins.get(random.below(target.begins.len().max(1) * 2)) else {
        let mut bytes = noise(&mut random, BYTES_MAX);
        // Small words are the likely ones: counts, kinds, lengths.
        if random.next().is_multiple_of(2) {
            let kept = random.below(5);
            bytes.iter_mut().enumerate().for_each(|(at, byte)| {
                if at % 8 > kept {
                    *byte = 0;
                }
            });
        }
        return bytes;
    };
    let mut bytes = begin.to_vec();
    for _ in 0..random.below(8) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => bytes.extend(noise(&mut random, 64)),
            1 => drop(bytes.splice(at..at, noise(&mut random, 8))),
            2 => {
                let end = (at + random.below(8)).min(bytes.len());
                drop(bytes.drain(at..end));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    bytes
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Gives a target inputs until as much processor time, or twice as much time, has passed. A failure is a panic;
/// `tell` is told each input's number before.
pub fn run(target: &Target, seed: u64, time: Duration, tell: &mut dyn FnMut(u64)) -> Ran {
    let (begun, before, mut inputs) = (Instant::now(), processor_time(), 0);
    loop {
        for _ in 0..ROUND {
            tell(inputs);
            (target.check)(&input(target, seed, inputs));
            inputs += 1;
        }
        let used = processor_time().saturating_sub(before);
        if used >= time || begun.elapsed() >= time * 2 {
            return Ran { inputs, processor_time: used };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_follow_from_their_numbers_and_differ() {
        let target = TARGETS.iter().find(|target| target.name == "gdb_packets").unwrap();
        let some: Vec<_> = (0..50).map(|number| input(target, 1, number)).collect();
        assert_eq!(some, (0..50).map(|number| input(target, 1, number)).collect::<Vec<_>>());
        assert_ne!(some[0], input(target, 2, 0));
        assert!(some.iter().any(|input| input.starts_with(b"q")));
    }

    #[test]
    fn every_target_of_the_folder_is_here_or_is_of_another_workspace() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/fuzz_targets");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut names: Vec<_> =
            files.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned())).collect();
        names.retain(|name| name != "kv_requests");
        names.sort();
        assert_eq!(names, TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
    }
}
