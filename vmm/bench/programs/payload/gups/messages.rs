//! A party for each window, asked by messages in shared memory: threads, or native processes.
//!
//! The updater holds window 0 itself, so that one window needs no message and `n` windows need `n -
//! 1` others. It sends a set and waits for the answer, as the paper's master does. A message is
//! written straight into the party's slot, one copy; the sequence number is stored last. A party
//! that waits either polls or sleeps in a futex; one that polls yields now and then when there are
//! more parties than processors, since the one it waits for may not be running.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::futex::{self, Flags};

use super::Engine;
use super::plan::{Plan, SETS};
use super::table::Words;
use crate::mapping::{Mapping, memory, open};

/// What holds the other windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Threads of this process.
    Threads,
    /// Processes started from this program.
    Processes,
}

/// How a party waits for a word to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Polling it.
    Polling,
    /// In a futex.
    Sleeping,
}

/// Bytes of a slot: no two parties share a cache line, nor the pair of lines that is fetched
/// together.
const SLOT_BYTES: u64 = 4096;
/// Offsets in a slot, in words of 4 and of 8 bytes.
const REQUEST: usize = 0;
const REPLY: usize = 32;
const LEN: usize = 32;
const UPDATES: usize = 33;
/// Requests that are not sequence numbers; the first sequence number is [`READY`] `+ 1`.
const STOP: u32 = u32::MAX;
const READY: u32 = 1;
/// Longest set.
const MOST: usize = SETS[1];
/// How often a party polls before it yields: soon if there are more parties than processors, else
/// only when the party it waits for has evidently lost its processor.
const SPINS_CROWDED: u32 = 100;
const SPINS: u32 = 10_000;
/// Longest wait for parties to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// One party's slot.
#[derive(Clone, Copy)]
struct Slot {
    slots: &'static Mapping,
    index: usize,
    wait: Wait,
    is_crowded: bool,
}

impl Slot {
    fn word(&self, word: usize) -> &'static AtomicU32 {
        self.slots.word(self.index * (SLOT_BYTES as usize / 4) + word)
    }

    fn long(&self, long: usize) -> &'static std::sync::atomic::AtomicU64 {
        self.slots.long(self.index * (SLOT_BYTES as usize / 8) + long)
    }

    /// Waits until a word is no longer `old` and returns it.
    fn changed(&self, word: &AtomicU32, old: u32) -> u32 {
        let patience = if self.is_crowded { SPINS_CROWDED } else { SPINS };
        let mut spins = 0_u32;
        loop {
            // Acquire: what was written before the word is read after it.
            let now = word.load(Acquire);
            if now != old {
                return now;
            }
            if self.wait == Wait::Sleeping {
                // Whatever it returns, the word is checked again.
                let _ = futex::wait(word, Flags::empty(), old, None);
                continue;
            }
            spins += 1;
            if spins.is_multiple_of(patience) {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn set(&self, word: &AtomicU32, value: u32) {
        // Release: see `changed`.
        word.store(value, Release);
        if self.wait == Wait::Sleeping {
            let _ = futex::wake(word, Flags::empty(), 1);
        }
    }

    /// The other side: serves sets until told to stop.
    fn serve(&self, words: Words<'_>) {
        self.set(self.word(REPLY), READY);
        let (mut seen, mut set) = (0, [0; MOST]);
        loop {
            seen = self.changed(self.word(REQUEST), seen);
            if seen == STOP {
                return;
            }
            let len = (self.long(LEN).load(Relaxed) as usize).min(MOST);
            for (at, value) in set[..len].iter_mut().enumerate() {
                *value = self.long(UPDATES + at).load(Relaxed);
            }
            words.update(&set[..len]);
            self.set(self.word(REPLY), seen);
        }
    }

    fn send(&self, set: &[u64], sequence: u32) {
        self.long(LEN).store(set.len() as u64, Relaxed);
        for (at, value) in set.iter().enumerate() {
            self.long(UPDATES + at).store(*value, Relaxed);
        }
        self.set(self.word(REQUEST), sequence);
    }
}

enum Party {
    Thread(JoinHandle<()>),
    Process(Child),
}

/// The updater, and the others while there are any.
pub(crate) struct Messages {
    who: Who,
    wait: Wait,
    window_bytes: u64,
    windows: u32,
    slots: &'static Mapping,
    table: &'static Mapping,
    // For processes: slots, then windows.
    file: Option<OwnedFd>,
    parties: Vec<Party>,
    sequence: u32,
    is_crowded: bool,
}

/// Where the windows begin in the file.
fn table_offset(windows: u32) -> u64 {
    (u64::from(windows) * SLOT_BYTES).next_multiple_of(1 << 21)
}

impl Messages {
    pub(crate) fn new(plan: &Plan, who: Who, wait: Wait) -> Result<Messages, String> {
        let (slot_bytes, table_bytes) =
            (table_offset(plan.windows), u64::from(plan.windows) * plan.window_bytes);
        let (slots, table, file) = if who == Who::Threads {
            let slots = Mapping::shared_memory(slot_bytes)?;
            (slots, Mapping::shared_memory(table_bytes)?, None)
        } else {
            let file = memory(slot_bytes + table_bytes)?;
            let slots = Mapping::new(&file, 0, slot_bytes)?;
            (slots, Mapping::new(&file, slot_bytes, table_bytes)?, Some(file))
        };
        let (windows, window_bytes) = (plan.windows, plan.window_bytes);
        let new = Messages {
            who,
            wait,
            window_bytes,
            windows,
            slots: slots.kept(),
            table: table.kept(),
            file,
            parties: Vec::new(),
            sequence: READY,
            is_crowded: false,
        };
        (0..windows).for_each(|index| new.words(index).touch());
        Ok(new)
    }

    fn words(&self, window: u32) -> Words<'static> {
        Words::of(self.table, window, self.window_bytes)
    }

    fn slot(&self, window: u32) -> Slot {
        let (slots, wait, is_crowded) = (self.slots, self.wait, self.is_crowded);
        Slot { slots, index: window as usize, wait, is_crowded }
    }

    fn start(&self, window: u32) -> Result<Party, String> {
        let slot = self.slot(window);
        if self.who == Who::Threads {
            let words = self.words(window);
            return Ok(Party::Thread(thread::spawn(move || slot.serve(words))));
        }
        let file = self.file.as_ref().ok_or("there is no file to share")?;
        // By this name the other process opens the same memory.
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let mut command = Command::new("/proc/self/exe");
        command.args(["gups-party", &path, "--windows", &self.windows.to_string()]);
        command.args(["--window", &window.to_string(), "--bytes", &self.window_bytes.to_string()]);
        command.args((self.wait == Wait::Polling).then_some("--polling"));
        command.args(self.is_crowded.then_some("--crowded"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().map(Party::Process).map_err(|err| format!("cannot start a party: {err}"))
    }
}

impl Engine for Messages {
    fn begin(&mut self, windows: u32) -> Result<(), String> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        self.is_crowded = windows as usize > processors;
        self.sequence = READY;
        for window in 1..windows {
            let slot = self.slot(window);
            slot.word(REQUEST).store(0, Relaxed);
            slot.word(REPLY).store(0, Relaxed);
            self.parties.push(self.start(window)?);
        }
        let began = Instant::now();
        while (1..windows).any(|window| self.slot(window).word(REPLY).load(Acquire) != READY) {
            if began.elapsed() > PATIENCE {
                return Err("not all parties came".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    #[inline]
    fn apply(&mut self, window: u32, set: &[u64]) -> Result<(), String> {
        if window == 0 {
            self.words(0).update(set);
            return Ok(());
        }
        let slot = self.slot(window);
        let before = slot.word(REPLY).load(Relaxed);
        self.sequence += 1;
        slot.send(set, self.sequence);
        let answer = slot.changed(slot.word(REPLY), before);
        if answer == self.sequence { Ok(()) } else { Err("an answer to another question".into()) }
    }

    fn end(&mut self) -> Result<(), String> {
        for window in 1..=self.parties.len() as u32 {
            let slot = self.slot(window);
            slot.set(slot.word(REQUEST), STOP);
        }
        for party in self.parties.drain(..) {
            let done = match party {
                Party::Thread(thread) => thread.join().is_ok(),
                Party::Process(mut child) => child.wait().is_ok_and(|status| status.success()),
            };
            if !done {
                return Err("a party failed".into());
            }
        }
        Ok(())
    }

    fn window_sum(&mut self, window: u32) -> Result<u64, String> {
        Ok(self.words(window).sum(window))
    }
}

/// The arguments of a party that is a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) windows: u32,
    pub(crate) window: u32,
    pub(crate) window_bytes: u64,
    pub(crate) wait: Wait,
    pub(crate) is_crowded: bool,
}

/// A party that is a process: maps its slot and its window of `path`, and serves.
pub(crate) fn party(path: &str, told: &Told) -> Result<(), String> {
    // Otherwise nothing would tell it to stop.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|err| format!("prctl: {err}"))?;
    let file = open(path)?;
    let first = table_offset(told.windows);
    let slots = Mapping::new(&file, 0, first)?.kept();
    let offset = first + u64::from(told.window) * told.window_bytes;
    let window = Mapping::new(&file, offset, told.window_bytes)?;
    let (index, wait, is_crowded) = (told.window as usize, told.wait, told.is_crowded);
    Slot { slots, index, wait, is_crowded }.serve(Words::of(&window, 0, told.window_bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::plan::drive;
    use super::super::windows::Flat;
    use super::*;

    #[test]
    fn the_same_table_comes_out_of_messages_however_parties_wait() {
        let (windows, window_bytes) = (8, 4096);
        let plan = Plan { windows, from: 1, window_bytes, sets: 20, rounds: 2, is_small: true };
        let mut flat = Flat::new(&plan).unwrap();
        drive(&plan, &mut flat).unwrap();
        for wait in [Wait::Polling, Wait::Sleeping] {
            let mut messages = Messages::new(&plan, Who::Threads, wait).unwrap();
            drive(&plan, &mut messages).unwrap();
            assert_eq!(messages.sum(windows), flat.sum(windows));
        }
    }

    #[test]
    fn a_set_arrives_whole_and_in_order_in_its_own_slot() {
        let slots = Mapping::shared_memory(4 * SLOT_BYTES).unwrap().kept();
        let slot = |index| Slot { slots, index, wait: Wait::Polling, is_crowded: true };
        let set: Vec<u64> = (100..100 + MOST as u64).collect();
        slot(2).send(&set, 7);
        assert_eq!(slot(2).changed(slot(2).word(REQUEST), 0), 7);
        let arrived: Vec<_> =
            (0..MOST).map(|at| slot(2).long(UPDATES + at).load(Relaxed)).collect();
        assert_eq!(arrived, set);
        assert_eq!(slot(2).long(LEN).load(Relaxed), MOST as u64);
        for other in [0, 1, 3] {
            assert_eq!(slot(other).word(REQUEST).load(Relaxed), 0);
            assert_eq!(slot(other).long(UPDATES).load(Relaxed), 0);
        }
    }
}
