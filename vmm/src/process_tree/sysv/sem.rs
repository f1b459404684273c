//! Sets of semaphores.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use abi::Errno;

use super::ids::{Got, Ids, Object, Owner, Permissions, READ, WRITE, now};
use super::{Account, Answer};

const SETS_MAX: usize = 32_000;
const IN_A_SET_MAX: u64 = 32_000;
const IN_ALL_MAX: u64 = 1_024_000_000;
const VALUE_MAX: i32 = 32_767;
pub(super) const OPERATIONS_MAX: usize = 500;
/// What a semaphore takes of our memory.
const SEMAPHORE_BYTES: u64 = 16;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// `struct sembuf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) number: u16,
    pub(super) add: i16,
    pub(super) flags: i16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    pid: i32,
}

#[derive(Debug)]
struct Set {
    permissions: Permissions,
    semaphores: Vec<Semaphore>,
    times: [u64; 2],
    /// What is undone at a process's end, by process and semaphore.
    undo: BTreeMap<(i32, u16), i32>,
}

impl Object for Set {
    fn permissions(&self) -> &Permissions {
        &self.permissions
    }
}

/// What an attempt came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Done,
    /// It waits for this semaphore: to become zero, or to become larger.
    Waits {
        number: u16,
        for_zero: bool,
    },
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sets(Ids<Set>);

impl Sets {
    pub(super) fn get(
        &mut self,
        account: &dyn Account,
        owner: Owner,
        (key, count, flags): (i32, u64, i32),
    ) -> Result<Answer, Errno> {
        if count > IN_A_SET_MAX {
            return Err(Errno::EINVAL);
        }
        let fits = |set: &Set| match count > set.semaphores.len() as u64 {
            true => Err(Errno::EINVAL),
            false => Ok(()),
        };
        let permissions = match self.0.get(key, flags, owner, fits)? {
            Got::There(id) => return Ok(Answer::of(id as u64)),
            Got::New(permissions) => permissions,
        };
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        if !account.charge(count * SEMAPHORE_BYTES) {
            return Err(Errno::ENOMEM);
        }
        let semaphores = vec![Semaphore::default(); count as usize];
        let set = Set { permissions, semaphores, times: [0, now()], undo: BTreeMap::new() };
        let added = self.0.add(set, SETS_MAX);
        if added.is_err() {
            account.release(count * SEMAPHORE_BYTES);
        }
        Ok(Answer::of(added? as u64))
    }

    /// Tries to do all operations, or none.
    ///
    /// # Errors
    /// As `semop(2)`.
    pub(super) fn operate(
        &mut self,
        (owner, pid): (Owner, i32),
        id: i32,
        operations: &[Operation],
    ) -> Result<Attempt, Errno> {
        let set = self.0.find(id)?;
        if operations.iter().any(|it| usize::from(it.number) >= set.semaphores.len()) {
            return Err(Errno::EFBIG);
        }
        let alters = operations.iter().any(|it| it.add != 0);
        set.permissions.check(owner, if alters { WRITE } else { READ })?;
        let (mut after, mut undo) = (BTreeMap::new(), BTreeMap::new());
        for it in operations {
            let Some(semaphore) = set.semaphores.get(usize::from(it.number)) else {
                return Err(Errno::EFBIG);
            };
            let value = after.entry(it.number).or_insert(semaphore.value);
            let sum = *value + i32::from(it.add);
            if (it.add == 0 && *value != 0) || sum < 0 {
                if i32::from(it.flags) & libc::IPC_NOWAIT != 0 {
                    return Err(Errno::EAGAIN);
                }
                return Ok(Attempt::Waits { number: it.number, for_zero: it.add == 0 });
            }
            if sum > VALUE_MAX {
                return Err(Errno::ERANGE);
            }
            *value = sum;
            if i32::from(it.flags) & libc::SEM_UNDO != 0 {
                let known = set.undo.get(&(pid, it.number)).copied().unwrap_or(0);
                let less: &mut i32 = undo.entry(it.number).or_insert(known);
                *less -= i32::from(it.add);
                if less.abs() > VALUE_MAX + 1 {
                    return Err(Errno::ERANGE);
                }
            }
        }
        for (number, value) in after {
            if let Some(semaphore) = set.semaphores.get_mut(usize::from(number)) {
                *semaphore = Semaphore { value, pid };
            }
        }
        set.undo.extend(undo.into_iter().map(|(number, less)| ((pid, number), less)));
        set.undo.retain(|_, less| *less != 0);
        set.times[0] = now();
        Ok(Attempt::Done)
    }

    /// A process has ended: what it has asked to be undone is.
    pub(super) fn end_of(&mut self, pid: i32) {
        for (_, set) in self.0.all_mut() {
            let of_process: Vec<_> =
                set.undo.range((pid, 0)..=(pid, u16::MAX)).map(|(key, add)| (*key, *add)).collect();
            for (key, add) in of_process {
                set.undo.remove(&key);
                if let Some(semaphore) = set.semaphores.get_mut(usize::from(key.1)) {
                    let value = (semaphore.value + add).clamp(0, VALUE_MAX);
                    *semaphore = Semaphore { value, pid };
                    set.times[0] = now();
                }
            }
        }
    }

    /// `waiting` says how many wait for a semaphore to become zero, or larger.
    pub(super) fn control(
        &mut self,
        account: &dyn Account,
        (owner, pid): (Owner, i32),
        (id, number, command, arguments): (i32, i32, i32, &[u64]),
        waiting: impl Fn(u16, bool) -> u64,
    ) -> Result<Answer, Errno> {
        match command {
            libc::IPC_INFO | SEM_INFO => {
                let all: u64 = self.0.all().map(|set| set.semaphores.len() as u64).sum();
                let (sets, semaphores) = match command {
                    SEM_INFO => (self.0.all().count() as u64, all),
                    _ => (20, VALUE_MAX as u64),
                };
                let words = vec![
                    IN_ALL_MAX,
                    SETS_MAX as u64,
                    IN_ALL_MAX,
                    IN_ALL_MAX,
                    IN_A_SET_MAX,
                    OPERATIONS_MAX as u64,
                    OPERATIONS_MAX as u64,
                    sets,
                    VALUE_MAX as u64,
                    semaphores,
                ];
                return Ok(Answer { value: self.0.highest(), words, ..Answer::default() });
            }
            libc::IPC_RMID => {
                let set = self.0.find(id)?;
                set.permissions.check_owner(owner)?;
                let set = self.0.remove(id)?;
                account.release(set.semaphores.len() as u64 * SEMAPHORE_BYTES);
                return Ok(Answer::default());
            }
            _ => {}
        }
        let is_stat = [SEM_STAT, SEM_STAT_ANY].contains(&command);
        let id = if is_stat { self.0.at(id)? } else { id };
        let set = self.0.find(id)?;
        if command == libc::IPC_SET {
            set.permissions.check_owner(owner)?;
            set.permissions.set(arguments.first_chunk().copied().ok_or(Errno::EINVAL)?);
            set.times[1] = now();
            return Ok(Answer::default());
        }
        let sets = [libc::SETVAL, libc::SETALL].contains(&command);
        if command != SEM_STAT_ANY {
            set.permissions.check(owner, if sets { WRITE } else { READ })?;
        }
        let value_of = |value: u64| match i32::try_from(value as i64) {
            Ok(value @ 0..=VALUE_MAX) => Ok(Semaphore { value, pid }),
            _ => Err(Errno::ERANGE),
        };
        match command {
            libc::IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
                let mut words = set.permissions.words().to_vec();
                words.extend([set.times[0], set.times[1], set.semaphores.len() as u64]);
                return Ok(Answer {
                    value: if is_stat { id as u64 } else { 0 },
                    words,
                    file: None,
                });
            }
            libc::GETALL => {
                let words = set.semaphores.iter().map(|it| it.value as u64).collect();
                return Ok(Answer { words, ..Answer::default() });
            }
            libc::SETALL => {
                // With none: how many there are to be set.
                if arguments.is_empty() {
                    return Ok(Answer::of(set.semaphores.len() as u64));
                }
                let new: Vec<_> =
                    arguments.iter().copied().map(value_of).collect::<Result<_, _>>()?;
                if new.len() != set.semaphores.len() {
                    return Err(Errno::EINVAL);
                }
                set.semaphores = new;
                set.undo.clear();
                set.times[1] = now();
                return Ok(Answer::default());
            }
            _ => {}
        }
        let number = u16::try_from(number).map_err(|_| Errno::EINVAL)?;
        let semaphore = set.semaphores.get_mut(usize::from(number)).ok_or(Errno::EINVAL)?;
        match command {
            libc::GETVAL => Ok(Answer::of(semaphore.value as u64)),
            libc::GETPID => Ok(Answer::of(semaphore.pid as u64)),
            libc::GETNCNT => Ok(Answer::of(waiting(number, false))),
            libc::GETZCNT => Ok(Answer::of(waiting(number, true))),
            libc::SETVAL => {
                *semaphore = value_of(arguments.first().copied().ok_or(Errno::EINVAL)?)?;
                set.undo.retain(|(_, of), _| *of != number);
                set.times[1] = now();
                Ok(Answer::default())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn has(&mut self, id: i32) -> bool {
        self.0.find(id).is_ok()
    }
}
