//! What a snapshot says besides the content of memory, as bytes.
//!
//! [`Head`] is what people and `run --from` look at first; the process itself ([`KeptProcess`]) follows it. The
//! file may have been changed by anybody who may write it, and its checksum is no seal: every field is checked, and
//! what comes of it is a process like any other, in a VM, with what is granted to it now.

use std::fs::File;
use std::sync::Arc;

use abi::VasId;
use abi::addr::LOWER_HALF_END;
use kvm_bindings::kvm_cpuid_entry2;

use crate::files::{KeptFiles, KeptMapping, MemoryAccount};
use crate::linux::children::forked::ForkedThread;
use crate::linux::limits::Limits;
use crate::linux::prctl::Settings;
use crate::linux::proc::Facts;
use crate::linux::signal::SignalActions;
use crate::linux::task::ProgramName;
use crate::private::fork::RegionCopy;
use crate::process_tree::wire::{Reader, Writer};
use crate::vas::attach::kept::KeptVases;
use crate::vm::Machine;
use crate::vm::machine::leaf;

/// What a head begins with: the format's number is in it.
const MAGIC: &[u8; 8] = b"SJSNAP3\n";
/// The highest number that Linux has for a thread (`PID_MAX_LIMIT`).
const TID_MAX: u32 = 1 << 22;

/// A head that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is something else, or of another version of the format.
    #[error("it is no snapshot of this version's format")]
    Format,
    /// A field is missing or impossible.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// The file that the process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptExecutable {
    /// Its path on the host, as whoever made the snapshot found it.
    pub host: Vec<u8>,
    /// The path that the program sees.
    pub inside: Vec<u8>,
    /// What it has to be still.
    pub identity: [u64; 5],
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The version of the command whose VM it was: memory holds what only that one has put there.
    pub version: String,
    /// What the processor offers to programs, as one number.
    pub processor: u64,
    /// When it was made, in seconds since 1970.
    pub made_at: u64,
    /// The number that the process had.
    pub pid: u32,
    /// Bytes of its memory that the snapshot has.
    pub memory_bytes: u64,
    /// The program, as it was called.
    pub program: Vec<u8>,
    /// Its file.
    pub executable: KeptExecutable,
    /// What is not in the snapshot: a few words each.
    pub lost: Vec<String>,
    /// The address spaces that it has attached.
    pub vases: Option<KeptVases>,
    /// [`KeptProcess`].
    pub process: Vec<u8>,
    /// The number of the thread that was in `ready`, if it was made there: a copy's comes back from it, and gets what
    /// the copy was started with.
    pub ready: Option<u32>,
}

impl Head {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(self.version.as_bytes());
        out.words(&[self.processor, self.made_at, u64::from(self.pid), self.memory_bytes]);
        out.bytes(&self.program);
        let KeptExecutable { host, inside, identity } = &self.executable;
        out.bytes(host);
        out.bytes(inside);
        out.words(identity);
        out.words(&[self.lost.len() as u64]);
        self.lost.iter().for_each(|one| out.bytes(one.as_bytes()));
        out.bytes(&KeptVases::encode(self.vases.as_ref()));
        out.bytes(&self.process);
        // Of one that was made from outside, nothing follows.
        self.ready.iter().for_each(|tid| out.words(&[u64::from(*tid)]));
        [MAGIC.as_slice(), &out.finish()].concat()
    }

    /// The VASes with versions that are kept for it.
    #[must_use]
    pub fn versions(&self) -> Vec<VasId> {
        self.vases.iter().flat_map(|vases| vases.versions().into_keys()).collect()
    }

    /// What [`Head::encode`] has written.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn decode(bytes: &[u8]) -> Result<Head, HeadError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(HeadError::Format)?;
        Head::read(&mut Reader(rest)).ok_or(HeadError::Damaged("what it is about"))
    }

    fn read(input: &mut Reader<'_>) -> Option<Head> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let version = text(input.bytes()?)?;
        let [processor, made_at, pid, memory_bytes] = input.words()?;
        let pid = u32::try_from(pid).ok()?;
        let program = input.bytes()?.to_vec();
        let (host, inside) = (input.bytes()?.to_vec(), input.bytes()?.to_vec());
        let executable = KeptExecutable { host, inside, identity: input.words()? };
        let count = input.count(8)?;
        let lost = (0..count).map(|_| text(input.bytes()?)).collect::<Option<_>>()?;
        let vases = KeptVases::decode(input.bytes()?)?;
        let process = input.bytes()?.to_vec();
        let ready = match input.0 {
            [] => None,
            _ => input.words().map(|[tid]| u32::try_from(tid).ok())?.map(Some)?,
        };
        let is_whole = input.0.is_empty();
        let head = Head {
            version,
            processor,
            made_at,
            pid,
            memory_bytes,
            program,
            executable,
            lost,
            vases,
            process,
            ready,
        };
        is_whole.then_some(head)
    }
}

/// What the processor offers to programs, as one number: code that was chosen for it is in memory.
#[must_use]
pub fn processor(machine: &Machine) -> u64 {
    let words = |of: &kvm_cpuid_entry2, family: bool| {
        [if family { of.eax } else { 0 }, if family { 0 } else { of.ebx }, of.ecx, of.edx]
    };
    let features = leaf(&machine.cpuid, 1, 0).map(|of| words(of, true)).into_iter();
    let more = leaf(&machine.cpuid, 7, 0).map(|of| words(of, false));
    let all = features.chain(more).flatten().map(u64::from).chain([machine.xcr0()]);
    // FNV-1a, by words.
    all.fold(0xcbf2_9ce4_8422_2325, |sum, word| (sum ^ word).wrapping_mul(0x0100_0000_01b3))
}

/// A thread in a snapshot.
#[derive(Debug)]
pub struct KeptThread {
    /// The number that it had.
    pub tid: u32,
    /// The head of the list of locks that it holds.
    pub robust_list: u64,
    /// All else.
    pub state: ForkedThread,
}

impl KeptThread {
    fn encode_all(threads: &[KeptThread]) -> Vec<u8> {
        let mut out = Writer::default();
        out.words(&[threads.len() as u64]);
        for one in threads {
            out.words(&[u64::from(one.tid), one.robust_list]);
            one.state.encode(&mut out);
        }
        out.finish()
    }

    /// What [`KeptThread::encode_all`] has written, of the threads besides the one with the number `first`.
    fn decode_all(bytes: &[u8], first: u32) -> Option<Vec<KeptThread>> {
        let input = &mut Reader(bytes);
        // Numbers and registers are words, and the rest is not nothing.
        let count = input.count(16)?;
        let mut numbers = vec![first];
        let mut threads = Vec::new();
        for _ in 0..count {
            let [tid, robust_list] = input.words()?;
            // What the host could have given to a thread, once.
            let tid = u32::try_from(tid).ok().filter(|tid| (1..=TID_MAX).contains(tid))?;
            if numbers.contains(&tid) {
                return None;
            }
            numbers.push(tid);
            let state = ForkedThread::decode(input)?;
            if state.regs.rip >= LOWER_HALF_END {
                return None;
            }
            threads.push(KeptThread { tid, robust_list, state });
        }
        input.0.is_empty().then_some(threads)
    }
}

/// A process in a snapshot, but for its files and its memory.
#[derive(Debug)]
pub struct KeptProcess {
    /// Its first thread.
    pub first: KeptThread,
    /// Its other threads.
    pub others: Vec<KeptThread>,
    /// Its limits.
    pub limits: Limits,
    /// Its actions for signals.
    pub actions: SignalActions,
    /// Its settings.
    pub settings: Settings,
    /// Its name.
    pub program: ProgramName,
    /// Where its executable was loaded, and the end of that.
    pub loaded: [u64; 2],
    /// What `/proc` shows of it.
    pub facts: Facts,
    /// Its open files.
    pub files: KeptFiles,
    /// The files that it has mapped.
    pub mapped: Vec<KeptMapping>,
    region: Vec<u8>,
}

/// The same, to be written.
pub(super) struct Parts<'a> {
    pub(super) first: &'a KeptThread,
    pub(super) others: &'a [KeptThread],
    pub(super) limits: &'a Limits,
    pub(super) actions: &'a SignalActions,
    pub(super) settings: &'a Settings,
    pub(super) program: &'a ProgramName,
    pub(super) loaded: [u64; 2],
    pub(super) facts: &'a Facts,
    pub(super) files: &'a KeptFiles,
    pub(super) mapped: &'a [KeptMapping],
    pub(super) region: &'a RegionCopy,
}

impl Parts<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.first.state.encode(&mut out);
        out.words(&[u64::from(self.first.tid), self.first.robust_list]);
        out.words(self.limits.all().as_flattened());
        self.actions.encode(&mut out);
        out.words(&[self.settings.bits(), self.loaded[0], self.loaded[1]]);
        out.bytes(&self.program.path);
        out.bytes(self.program.short.as_bytes());
        let Facts { args, env, stack, auxv, .. } = self.facts;
        out.words(&[args.start, args.end, env.start, env.end, *stack]);
        out.bytes(auxv);
        out.bytes(&self.files.encode());
        out.bytes(&KeptMapping::encode(self.mapped));
        out.bytes(&KeptThread::encode_all(self.others));
        let mut region = Writer::default();
        // Its files are those that are mapped, and its memory.
        self.region.encode(&mut region, &mut Vec::new());
        out.bytes(&region.finish());
        out.finish()
    }
}

impl KeptProcess {
    /// What is in a head.
    ///
    /// # Errors
    /// [`HeadError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<KeptProcess, HeadError> {
        let input = &mut Reader(bytes);
        let bad = HeadError::Damaged;
        let state = ForkedThread::decode(input).ok_or(bad("its thread"))?;
        if state.regs.rip >= LOWER_HALF_END {
            return Err(bad("where its thread is"));
        }
        let [tid, robust_list] = input.words().ok_or(bad("its thread's number"))?;
        let tid = u32::try_from(tid).map_err(|_| bad("its thread's number"))?;
        let limits = input.words::<32>().and_then(|words| Limits::of(words.as_chunks().0));
        let limits = limits.ok_or(bad("its limits"))?;
        let actions = SignalActions::decode(input).ok_or(bad("its signals"))?;
        let [settings, bias, end] = input.words().ok_or(bad("its settings"))?;
        let name = input.bytes().map(<[u8]>::to_vec).zip(input.bytes().map(<[u8]>::to_vec));
        let (path, short) = name.ok_or(bad("its name"))?;
        let short = String::from_utf8_lossy(&short).into_owned();
        let facts = Self::facts(input).ok_or(bad("where its arguments are"))?;
        let files = input.bytes().and_then(KeptFiles::decode).ok_or(bad("its files"))?;
        let mapped = input.bytes().and_then(KeptMapping::decode);
        let mapped = mapped.ok_or(bad("the files that it has mapped"))?;
        let others = input.bytes().and_then(|bytes| KeptThread::decode_all(bytes, tid));
        let others = others.ok_or(bad("its threads"))?;
        let region = input.bytes().filter(|_| input.0.is_empty());
        let region = region.ok_or(bad("its memory"))?.to_vec();
        Ok(KeptProcess {
            first: KeptThread { tid, robust_list, state },
            others,
            limits,
            actions,
            settings: Settings::of_bits(settings),
            program: ProgramName { path, short },
            loaded: [bias, end],
            facts,
            files,
            mapped,
            region,
        })
    }

    fn facts(input: &mut Reader<'_>) -> Option<Facts> {
        let [args, args_end, env, env_end, stack] = input.words()?;
        let auxv = input.bytes()?.to_vec();
        let is_right = args <= args_end && env <= env_end;
        is_right.then(|| Facts::of_copy([args..args_end, env..env_end], stack, auxv))
    }

    /// The thread that had this number.
    pub fn thread_mut(&mut self, tid: u32) -> Option<&mut KeptThread> {
        [&mut self.first].into_iter().chain(&mut self.others).find(|thread| thread.tid == tid)
    }

    /// Its memory, of these files: those that are mapped, and the one with its content.
    ///
    /// # Errors
    /// [`HeadError::Damaged`].
    pub fn region(
        &self,
        files: Vec<File>,
        account: &Arc<dyn MemoryAccount>,
    ) -> Result<RegionCopy, HeadError> {
        let input = &mut Reader(&self.region);
        let mut files = files.into_iter();
        let region = RegionCopy::decode(input, &mut files, account).ok();
        let region = region.filter(|_| input.0.is_empty() && files.next().is_none());
        region.map(RegionCopy::of_snapshot).ok_or(HeadError::Damaged("its memory"))
    }

    /// Where the random bytes are that it was started with, if that is known.
    #[must_use]
    pub fn at_random(&self) -> Option<u64> {
        let (pairs, _) = self.facts.auxv.as_chunks::<16>();
        let mut pairs = pairs.iter().map(|pair| {
            let (kind, value) = pair.split_at(8);
            let word = |half: &[u8]| half.first_chunk().map_or(0, |half| u64::from_le_bytes(*half));
            (word(kind), word(value))
        });
        pairs.find(|(kind, _)| *kind == libc::AT_RANDOM).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use abi::GuestVirt;
    use proptest::prelude::*;

    use super::{
        Facts, ForkedThread, Head, HeadError, KeptExecutable, KeptProcess, KeptThread, Parts,
    };
    use crate::files::{KeptFiles, KeptMapping};
    use crate::linux::limits::Limits;
    use crate::linux::prctl::Settings;
    use crate::linux::signal::{AltStack, SignalActions};
    use crate::linux::task::ProgramName;
    use crate::private::fork::RegionCopy;
    use crate::vm::{MemoryLedger, UserRegs};

    fn thread(rip: u64) -> ForkedThread {
        let null = GuestVirt::new(0).unwrap();
        ForkedThread {
            regs: UserRegs { rip, rsp: 0x7000, ..UserRegs::default() },
            fs_base: null,
            gs_base: null,
            fpu: Box::default(),
            mask: 4,
            alt: AltStack::default(),
            name: b"counter".to_vec(),
            set_tid: 0,
            clear_tid: 0x5000,
        }
    }

    fn process(rip: u64) -> Vec<u8> {
        let pair = [libc::AT_RANDOM, 0x1234].map(u64::to_le_bytes);
        let mapped =
            [KeptMapping { path: b"/lib/c".to_vec(), writable: false, identity: Some([1; 5]) }];
        let of = |tid, rip| KeptThread { tid, robust_list: 0x6000, state: thread(rip) };
        Parts {
            first: &of(9, rip),
            others: &[of(10, rip), of(8, rip)],
            limits: &Limits::default(),
            actions: &SignalActions::default(),
            settings: &Settings::default(),
            program: &ProgramName { path: b"./counter".to_vec(), short: "counter".to_owned() },
            loaded: [1, 2],
            facts: &Facts::of_copy([1..2, 3..4], 5, pair.as_flattened().to_vec()),
            files: &KeptFiles { cwd: b"/".to_vec(), ..KeptFiles::default() },
            mapped: &mapped,
            region: &RegionCopy::default(),
        }
        .encode()
    }

    fn head() -> Head {
        Head {
            version: "1.2.3".to_owned(),
            processor: 7,
            made_at: 8,
            pid: 9,
            memory_bytes: 4096,
            program: b"./counter".to_vec(),
            executable: KeptExecutable {
                host: b"/x/counter".to_vec(),
                inside: b"/counter".to_vec(),
                identity: [5; 5],
            },
            lost: vec!["descriptor 4: a socket".to_owned()],
            vases: None,
            process: process(0x40_0000),
            ready: None,
        }
    }

    #[test]
    fn which_thread_was_ready_follows_only_where_one_was() {
        let from_outside = head().encode();
        let ready = Head { ready: Some(9), ..head() };
        let bytes = ready.encode();
        assert_eq!(bytes, [from_outside.as_slice(), &9_u64.to_le_bytes()].concat());
        assert_eq!(Head::decode(&bytes), Ok(ready));
        for len in from_outside.len() + 1..bytes.len() {
            assert!(Head::decode(&bytes[..len]).is_err(), "{len}");
        }
        let no_tid = [from_outside.as_slice(), &[0xff; 8]].concat();
        assert!(Head::decode(&no_tid).is_err());
    }

    #[test]
    fn what_is_written_is_read_and_whatever_is_cut_off_is_refused() {
        let head = head();
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(head.clone()));
        for len in 0..bytes.len() {
            assert!(Head::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert_eq!(Head::decode(b"SJSNAP2\n"), Err(HeadError::Format));
        assert!(Head::decode(&[&bytes[..], b"x"].concat()).is_err(), "something follows");
        let kept = KeptProcess::decode(&head.process).unwrap();
        let KeptThread { tid, robust_list, state } = &kept.first;
        assert_eq!((*tid, *robust_list, kept.loaded), (9, 0x6000, [1, 2]));
        assert_eq!((state.regs.rip, state.mask), (0x40_0000, 4));
        let others = kept.others.iter();
        let others: Vec<_> = others.map(|it| (it.tid, it.robust_list, it.state.regs.rip)).collect();
        assert_eq!(others, [(10, 0x6000, 0x40_0000), (8, 0x6000, 0x40_0000)]);
        assert_eq!((kept.at_random(), kept.mapped.len()), (Some(0x1234), 1));
        for len in (0..head.process.len()).step_by(8) {
            assert!(KeptProcess::decode(&head.process[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_thread_that_is_where_no_program_can_be_is_refused() {
        let bad = KeptProcess::decode(&process(u64::MAX)).unwrap_err();
        assert_eq!(bad, HeadError::Damaged("where its thread is"));
    }

    #[test]
    fn memory_without_its_file_is_refused() {
        let kept = KeptProcess::decode(&process(0x1000)).unwrap();
        let account: Arc<dyn crate::files::MemoryAccount> = Arc::new(MemoryLedger::default());
        // The default's addresses are none that a program has.
        assert!(kept.region(Vec::new(), &account).is_err());
    }

    proptest! {
        #[test]
        fn changed_bytes_are_read_or_refused(at in any::<prop::sample::Index>(), to in any::<u64>()) {
            let mut bytes = process(0x1000);
            let at = at.index(bytes.len() / 8) * 8;
            bytes[at..at + 8].copy_from_slice(&to.to_le_bytes());
            if let Ok(kept) = KeptProcess::decode(&bytes) {
                let account: Arc<dyn crate::files::MemoryAccount> = Arc::new(MemoryLedger::default());
                let _ = kept.region(Vec::new(), &account);
            }
        }
    }
}
