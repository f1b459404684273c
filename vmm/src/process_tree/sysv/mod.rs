//! System V IPC: shared memory, semaphores and message queues, private to a run.
//!
//! One process has them: the first VMM's starter, which runs no program and has none of their memory. The others ask it, and so there are
//! no locks that a VMM could be killed with. It learns of each process's end from the host, and does then what Linux does: it detaches
//! memory, undoes what semaphores were to be undone, and forgets who waits. With the run it ends, and with it all it has.
//!
//! - [`State`]: the objects, and who waits; it knows nothing of sockets
//! - `ids`: numbers, keys, permissions; `shm`, `sem`, `msg`: the three kinds
//! - [`server`]: questions and answers
#![forbid(unsafe_code)]

mod ids;
mod msg;
mod sem;
pub mod server;
mod shm;

use std::fs::File;

use abi::Errno;

use self::ids::Owner;
use self::msg::{Message, Queues, Wanted};
use self::sem::{Attempt, OPERATIONS_MAX, Operation, Sets};
use self::shm::Segments;
use super::wire::Reader;

/// What a question is about.
pub mod question {
    /// `shmget`: key, size, flags.
    pub const SHM_GET: u64 = 1;
    /// `shmat`: number, whether it is for reading only, for execution.
    pub const SHM_ATTACH: u64 = 2;
    /// A mapping of this segment is gone: number.
    pub const SHM_DETACH: u64 = 3;
    /// `shmctl`: number, command, uid, gid, mode.
    pub const SHM_CONTROL: u64 = 4;
    /// `semget`: key, count, flags.
    pub const SEM_GET: u64 = 5;
    /// `semop`: number, then operations of three words each. May wait.
    pub const SEM_OPERATE: u64 = 6;
    /// `semctl`: number, semaphore, command, then arguments.
    pub const SEM_CONTROL: u64 = 7;
    /// `msgget`: key, flags.
    pub const MSG_GET: u64 = 8;
    /// `msgsnd`: number, type, flags, content. May wait.
    pub const MSG_SEND: u64 = 9;
    /// `msgrcv`: number, size, type, flags. May wait.
    pub const MSG_RECEIVE: u64 = 10;
    /// `msgctl`: number, command, uid, gid, mode, bytes.
    pub const MSG_CONTROL: u64 = 11;
    /// The caller has forked: the child's number.
    pub const FORKED: u64 = 12;
    /// The caller runs another program.
    pub const EXECUTED: u64 = 13;
    /// Waits no longer.
    pub const CANCEL: u64 = 14;
}

/// Memory that objects are charged to: the run's.
pub trait Account {
    /// Whether there may be so much more.
    fn charge(&self, bytes: u64) -> bool;

    /// Less.
    fn release(&self, bytes: u64);
}

/// What is answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// What the call returns.
    pub value: u64,
    /// What else there is to say.
    pub words: Vec<u64>,
    /// What belongs to it.
    pub file: Option<File>,
}

impl Answer {
    fn of(value: u64) -> Answer {
        Answer { value, ..Answer::default() }
    }
}

/// What becomes of a question.
#[derive(Debug)]
pub enum Outcome {
    /// It is answered, perhaps with what a message says.
    Done(Result<Answer, Errno>, Vec<u8>),
    /// It waits.
    Waits,
}

/// A call that waits.
#[derive(Debug)]
enum Waiting {
    Semaphores { id: i32, operations: Vec<Operation>, number: u16, for_zero: bool },
    Send { id: i32, message: Message },
    Receive { id: i32, wanted: Wanted },
}

#[derive(Debug)]
struct Waiter {
    connection: u64,
    pid: i32,
    what: Waiting,
}

/// All objects of a run.
#[derive(Debug)]
pub struct State {
    owner: Owner,
    segments: Segments,
    sets: Sets,
    queues: Queues,
    waiters: Vec<Waiter>,
}

const BAD: Errno = Errno::from_raw(libc::EPROTO);
const IDENTIFIER_REMOVED: Errno = Errno::from_raw(libc::EIDRM);
const NO_MESSAGE: Errno = Errno::from_raw(libc::ENOMSG);

fn answered(answer: Result<Answer, Errno>) -> Outcome {
    Outcome::Done(answer, Vec::new())
}

impl State {
    /// None yet, for processes of this user and group.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> State {
        State {
            owner: Owner { uid, gid },
            segments: Segments::default(),
            sets: Sets::default(),
            queues: Queues::default(),
            waiters: Vec::new(),
        }
    }

    /// All files that belong to objects.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.segments.files().chain(self.queues.file())
    }

    /// How many calls wait: for each connection one at most.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    fn waits(&self, connection: u64) -> bool {
        self.waiters.iter().any(|waiter| waiter.connection == connection)
    }

    /// Answers a question of a process, on one of its connections.
    pub fn ask(
        &mut self,
        account: &dyn Account,
        (connection, pid): (u64, i32),
        question: &[u8],
    ) -> Outcome {
        let mut input = Reader(question);
        self.answer(account, (connection, pid), &mut input).unwrap_or(answered(Err(BAD)))
    }

    fn answer(
        &mut self,
        account: &dyn Account,
        (connection, pid): (u64, i32),
        input: &mut Reader<'_>,
    ) -> Option<Outcome> {
        let who = (self.owner, pid);
        let [what] = input.words()?;
        // A VMM asks again when it has its answer. One that does not would pile up calls that wait.
        if what != question::CANCEL && self.waits(connection) {
            return None;
        }
        Some(match what {
            question::SHM_GET => {
                let [key, bytes, flags] = input.words()?;
                answered(self.segments.get(account, who, (key as i32, bytes, flags as i32)))
            }
            question::SHM_ATTACH => {
                let [id, reads_only, executes] = input.words()?;
                answered(self.segments.attach(who, (id as i32, reads_only != 0, executes != 0)))
            }
            question::SHM_DETACH => {
                let [id] = input.words()?;
                let detached = self.segments.detach(account, pid, id as i32);
                answered(detached.map(|()| Answer::default()))
            }
            question::SHM_CONTROL => {
                let [id, command, uid, gid, mode] = input.words()?;
                let what = (id as i32, command as i32, [uid, gid, mode]);
                answered(self.segments.control(account, who, what))
            }
            question::SEM_GET => {
                let [key, count, flags] = input.words()?;
                answered(self.sets.get(account, self.owner, (key as i32, count, flags as i32)))
            }
            question::SEM_OPERATE => {
                let [id] = input.words()?;
                let count = input.count(24)?;
                let mut operations = Vec::with_capacity(count.min(OPERATIONS_MAX));
                for _ in 0..count {
                    let [number, add, flags] = input.words()?;
                    let (number, add, flags) = (number as u16, add as i16, flags as i16);
                    operations.push(Operation { number, add, flags });
                }
                self.operate((connection, pid), id as i32, operations)
            }
            question::SEM_CONTROL => {
                let [id, number, command] = input.words()?;
                let count = input.count(8)?;
                let mut arguments = Vec::with_capacity(count);
                for _ in 0..count {
                    let [argument] = input.words()?;
                    arguments.push(argument);
                }
                let State { sets, waiters, .. } = self;
                let waiting = |number: u16, zero: bool| {
                    let is = |waiter: &&Waiter| {
                        matches!(waiter.what, Waiting::Semaphores { id: of, number: at, for_zero, .. }
                        if of == id as i32 && at == number && for_zero == zero)
                    };
                    waiters.iter().filter(is).count() as u64
                };
                let what = (id as i32, number as i32, command as i32, arguments.as_slice());
                answered(sets.control(account, who, what, waiting))
            }
            question::MSG_GET => {
                let [key, flags] = input.words()?;
                answered(self.queues.get(self.owner, key as i32, flags as i32))
            }
            question::MSG_SEND => {
                let [id, kind, flags] = input.words()?;
                let content = input.bytes()?;
                self.send((connection, pid), account, [id, kind, flags], content)
                    .unwrap_or_else(|errno| answered(Err(errno)))
            }
            question::MSG_RECEIVE => {
                let [id, bytes, kind, flags] = input.words()?;
                let wanted = Wanted { bytes, kind: kind as i64, flags: flags as i32 };
                match self.queues.receive(account, who, (id as i32, wanted)) {
                    Ok(Some((kind, content))) => {
                        Outcome::Done(Ok(Answer::of(kind as u64)), content)
                    }
                    Ok(None) if wanted.flags & libc::IPC_NOWAIT != 0 => answered(Err(NO_MESSAGE)),
                    Ok(None) => {
                        let what = Waiting::Receive { id: id as i32, wanted };
                        self.waiters.push(Waiter { connection, pid, what });
                        Outcome::Waits
                    }
                    Err(errno) => answered(Err(errno)),
                }
            }
            question::MSG_CONTROL => {
                let [id, command, uid, gid, mode, limit] = input.words()?;
                let what = (id as i32, command as i32, [uid, gid, mode], limit);
                answered(self.queues.control(account, self.owner, what))
            }
            question::FORKED => {
                let [child] = input.words()?;
                self.segments.inherit(pid, child as i32);
                answered(Ok(Answer::default()))
            }
            question::EXECUTED => {
                self.segments.detach_all(account, pid);
                answered(Ok(Answer::default()))
            }
            question::CANCEL => {
                self.forget(account, connection);
                answered(Err(Errno::EINTR))
            }
            _ => return None,
        })
    }

    fn send(
        &mut self,
        (connection, pid): (u64, i32),
        account: &dyn Account,
        [id, kind, flags]: [u64; 3],
        content: &[u8],
    ) -> Result<Outcome, Errno> {
        let (id, kind) = (id as i32, kind as i64);
        let has_room = self.queues.has_room(self.owner, (id, kind), content.len() as u64)?;
        if !has_room && flags as i32 & libc::IPC_NOWAIT != 0 {
            return Err(Errno::EAGAIN);
        }
        let message = self.queues.keep(account, kind, content)?;
        if has_room {
            self.queues.queue(id, pid, message)?;
            return Ok(answered(Ok(Answer::default())));
        }
        self.waiters.push(Waiter { connection, pid, what: Waiting::Send { id, message } });
        Ok(Outcome::Waits)
    }

    fn operate(
        &mut self,
        (connection, pid): (u64, i32),
        id: i32,
        operations: Vec<Operation>,
    ) -> Outcome {
        if operations.is_empty() {
            return answered(Err(Errno::EINVAL));
        }
        if operations.len() > OPERATIONS_MAX {
            return answered(Err(Errno::from_raw(libc::E2BIG)));
        }
        match self.sets.operate((self.owner, pid), id, &operations) {
            Ok(Attempt::Done) => answered(Ok(Answer::default())),
            Ok(Attempt::Waits { number, for_zero }) => {
                let what = Waiting::Semaphores { id, operations, number, for_zero };
                self.waiters.push(Waiter { connection, pid, what });
                Outcome::Waits
            }
            Err(errno) => answered(Err(errno)),
        }
    }

    /// Whoever waits on a connection does so no longer.
    pub fn forget(&mut self, account: &dyn Account, connection: u64) {
        self.forget_where(account, |waiter| waiter.connection == connection);
    }

    /// A process has ended.
    pub fn end_of(&mut self, account: &dyn Account, pid: i32) {
        self.forget_where(account, |waiter| waiter.pid == pid);
        self.segments.detach_all(account, pid);
        self.sets.end_of(pid);
    }

    fn forget_where(&mut self, account: &dyn Account, is_gone: impl Fn(&Waiter) -> bool) {
        let (gone, left) = std::mem::take(&mut self.waiters).into_iter().partition(is_gone);
        self.waiters = left;
        for Waiter { what, .. } in gone {
            if let Waiting::Send { message, .. } = what {
                self.queues.drop_message(account, message);
            }
        }
    }

    /// Those that waited and need to no longer, by connection, in the order in which they came.
    pub fn settle(&mut self, account: &dyn Account) -> Vec<(u64, Result<Answer, Errno>, Vec<u8>)> {
        let mut done = Vec::new();
        let mut at = 0;
        while at < self.waiters.len() {
            let owner = self.owner;
            let State { sets, queues, waiters, .. } = self;
            let Some(waiter) = waiters.get_mut(at) else { break };
            let who = (owner, waiter.pid);
            let result = match &mut waiter.what {
                Waiting::Semaphores { id, .. } if !sets.has(*id) => Some(Err(IDENTIFIER_REMOVED)),
                Waiting::Semaphores { id, operations, number, for_zero } => {
                    match sets.operate(who, *id, operations) {
                        Ok(Attempt::Done) => Some(Ok((Answer::default(), Vec::new()))),
                        Ok(Attempt::Waits { number: now, for_zero: zero }) => {
                            (*number, *for_zero) = (now, zero);
                            None
                        }
                        Err(errno) => Some(Err(errno)),
                    }
                }
                Waiting::Send { id, .. } | Waiting::Receive { id, .. } if !queues.has(*id) => {
                    Some(Err(IDENTIFIER_REMOVED))
                }
                Waiting::Send { id, message } => {
                    let (pid, message) = (who.1, *message);
                    match queues.has_room(owner, (*id, message.kind), message.bytes) {
                        Ok(true) => {
                            let queued = queues.queue(*id, pid, message);
                            Some(queued.map(|()| (Answer::default(), Vec::new())))
                        }
                        Ok(false) => None,
                        Err(errno) => Some(Err(errno)),
                    }
                }
                Waiting::Receive { id, wanted } => {
                    match queues.receive(account, who, (*id, *wanted)) {
                        Ok(Some((kind, content))) => Some(Ok((Answer::of(kind as u64), content))),
                        Ok(None) => None,
                        Err(errno) => Some(Err(errno)),
                    }
                }
            };
            let Some(result) = result else {
                at += 1;
                continue;
            };
            let Waiter { connection, what, .. } = self.waiters.remove(at);
            if let (Waiting::Send { message, .. }, Err(_)) = (what, &result) {
                self.queues.drop_message(account, message);
            }
            let (answer, content) = match result {
                Ok((answer, content)) => (Ok(answer), content),
                Err(errno) => (Err(errno), Vec::new()),
            };
            done.push((connection, answer, content));
            // What it has done may be what an earlier one waits for.
            at = 0;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use abi::{Errno, PAGE_SIZE};

    use super::{Account, Answer, Outcome, State, question};
    use crate::process_tree::wire::Writer;

    /// So much may be held.
    struct Limited(Cell<u64>);

    impl Account for Limited {
        fn charge(&self, bytes: u64) -> bool {
            let fits = self.0.get().checked_sub(bytes);
            self.0.set(fits.unwrap_or(self.0.get()));
            fits.is_some()
        }

        fn release(&self, bytes: u64) {
            self.0.set(self.0.get() + bytes);
        }
    }

    const LIMIT: u64 = 10 * PAGE_SIZE;

    fn world() -> (State, Limited) {
        (State::new(1000, 1000), Limited(Cell::new(LIMIT)))
    }

    impl State {
        fn asked(&mut self, account: &Limited, pid: i32, words: &[u64], bytes: &[u8]) -> Outcome {
            let mut question = Writer::default();
            question.words(words);
            if !bytes.is_empty() {
                question.bytes(bytes);
            }
            self.ask(account, (pid as u64, pid), &question.finish())
        }

        fn done(&mut self, account: &Limited, pid: i32, words: &[u64]) -> Result<Answer, Errno> {
            match self.asked(account, pid, words, b"") {
                Outcome::Done(answer, _) => answer,
                Outcome::Waits => panic!("it waits"),
            }
        }
    }

    const CREATE: u64 = libc::IPC_CREAT as u64 | 0o600;
    const REMOVE: u64 = libc::IPC_RMID as u64;

    #[test]
    fn a_segment_is_charged_until_it_is_removed_and_nobody_has_it() {
        let (mut state, account) = world();
        let get = [question::SHM_GET, 7, 6 * PAGE_SIZE, CREATE];
        let id = state.done(&account, 1, &get).unwrap().value;
        let too_much = [question::SHM_GET, 8, 5 * PAGE_SIZE, CREATE];
        assert_eq!(state.done(&account, 1, &too_much).unwrap_err(), Errno::ENOMEM);
        state.done(&account, 1, &[question::SHM_ATTACH, id, 0, 0]).unwrap();
        state.done(&account, 1, &[question::FORKED, 2]).unwrap();
        state.done(&account, 2, &[question::SHM_CONTROL, id, REMOVE, 0, 0, 0]).unwrap();
        assert_eq!(state.done(&account, 3, &get[..3]).unwrap_err().raw(), libc::EPROTO, "cut off");
        state.end_of(&account, 1);
        assert_eq!(account.0.get(), 4 * PAGE_SIZE);
        state.done(&account, 2, &[question::EXECUTED]).unwrap();
        assert_eq!(account.0.get(), LIMIT);
        let next = state.done(&account, 1, &get).unwrap().value;
        assert_ne!(next, id, "its number is another object's");
    }

    #[test]
    fn who_waits_for_semaphores_goes_on_when_all_of_them_are_there() {
        let (mut state, account) = world();
        let id = state.done(&account, 1, &[question::SEM_GET, 7, 2, CREATE]).unwrap().value;
        let operate = |ops: &[[u64; 3]]| {
            let head = [question::SEM_OPERATE, id, ops.len() as u64];
            [head.as_slice(), ops.as_flattened()].concat()
        };
        let (down, undo) = (-1_i64 as u64, libc::SEM_UNDO as u64);
        let both = operate(&[[0, down, 0], [1, down, 0]]);
        assert!(matches!(state.asked(&account, 2, &both, b""), Outcome::Waits));
        state.done(&account, 3, &operate(&[[0, 1, undo]])).unwrap();
        assert!(state.settle(&account).is_empty());
        state.done(&account, 1, &operate(&[[1, 1, 0]])).unwrap();
        let settled = state.settle(&account);
        assert!(matches!(settled.as_slice(), [(2, Ok(_), _)]), "{settled:?}");
        // Its end undoes what another one has used up since: not below zero.
        state.end_of(&account, 3);
        let value = [question::SEM_CONTROL, id, 0, libc::GETVAL as u64, 0];
        assert_eq!(state.done(&account, 1, &value).unwrap().value, 0);
        // A process that ends waits no longer, and who is left learns that the set is gone.
        assert!(matches!(state.asked(&account, 2, &both, b""), Outcome::Waits));
        assert!(matches!(state.asked(&account, 4, &both, b""), Outcome::Waits));
        state.end_of(&account, 4);
        state.done(&account, 1, &[question::SEM_CONTROL, id, 0, REMOVE, 0]).unwrap();
        let settled = state.settle(&account);
        assert!(matches!(settled.as_slice(), [(2, Err(errno), _)] if errno.raw() == libc::EIDRM));
        assert_eq!(account.0.get(), LIMIT);
    }

    #[test]
    fn messages_are_charged_while_they_are_queued() {
        let (mut state, account) = world();
        let id = state.done(&account, 1, &[question::MSG_GET, 7, CREATE]).unwrap().value;
        let send = |state: &mut State, kind: u64| {
            state.asked(&account, 1, &[question::MSG_SEND, id, kind, 0], b"what it says")
        };
        for _ in 0..10 {
            assert!(matches!(send(&mut state, 3), Outcome::Done(Ok(_), _)));
        }
        assert!(matches!(send(&mut state, 3), Outcome::Done(Err(Errno::ENOMEM), _)));
        let receive = [question::MSG_RECEIVE, id, 100, 3, 0];
        let Outcome::Done(Ok(answer), content) = state.asked(&account, 2, &receive, b"") else {
            panic!("there are some")
        };
        assert_eq!((answer.value, content.as_slice()), (3, b"what it says".as_slice()));
        // One that waits for room is charged, too, and is dropped with who waits.
        let limit = [question::MSG_CONTROL, id, libc::IPC_SET as u64, 1000, 1000, 0o600, 1];
        state.done(&account, 1, &limit).unwrap();
        for pid in [8, 9] {
            let send = [question::MSG_SEND, id, 3, 0];
            if pid == 8 {
                let waits = state.asked(&account, pid, &send, b"what it says");
                assert!(matches!(waits, Outcome::Waits));
                assert_eq!(account.0.get(), 0);
                state.end_of(&account, pid);
                assert_eq!(account.0.get(), PAGE_SIZE);
            } else {
                let waits = state.asked(&account, pid, &send, b"what it says");
                assert!(matches!(waits, Outcome::Waits));
            }
        }
        state.done(&account, 1, &[question::MSG_CONTROL, id, REMOVE, 0, 0, 0, 0]).unwrap();
        let settled = state.settle(&account);
        assert!(matches!(settled.as_slice(), [(9, Err(errno), _)] if errno.raw() == libc::EIDRM));
        assert_eq!(account.0.get(), LIMIT);
    }

    #[test]
    fn what_no_vmm_asks_is_refused() {
        let (mut state, account) = world();
        for words in [&[][..], &[0], &[99, 1, 2], &[question::SEM_OPERATE, 0, u64::MAX]] {
            let errno = state.done(&account, 1, words).unwrap_err();
            assert_eq!(errno.raw(), libc::EPROTO, "{words:?}");
        }
    }
}
