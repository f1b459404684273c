//! Queues of messages. What a message says lies in a file in memory and not in this process's own, which
//! other processes are copies of.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;

use abi::Errno;
use rustix::fs::{FallocateFlags, MemfdFlags};

use super::ids::{Got, Ids, Object, Owner, Permissions, READ, WRITE, now};
use super::{Account, Answer};

const QUEUES_MAX: usize = 32_000;
/// `MSGMAX`.
pub(super) const BYTES_MAX: u64 = 8192;
/// `MSGMNB`.
const QUEUE_BYTES: u64 = 16_384;
const MSG_NOERROR: i32 = 0o10000;
const MSG_EXCEPT: i32 = 0o20000;
const MSG_COPY: i32 = 0o40000;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// Where messages lie, each at a place of its own.
#[derive(Debug, Default)]
struct Store {
    file: Option<File>,
    places: u64,
    free: Vec<u64>,
}

impl Store {
    fn file(&mut self) -> Result<&File, Errno> {
        if self.file.is_none() {
            let made = rustix::fs::memfd_create("messages", MemfdFlags::CLOEXEC);
            self.file = Some(made.map_err(|_| Errno::ENOMEM)?.into());
        }
        self.file.as_ref().ok_or(Errno::ENOMEM)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<u64, Errno> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places += 1;
            self.places - 1
        });
        let written = self.file().and_then(|file| {
            file.write_all_at(bytes, place * BYTES_MAX).map_err(|_| Errno::ENOMEM)
        });
        match written {
            Ok(()) => Ok(place),
            Err(errno) => {
                self.remove(place);
                Err(errno)
            }
        }
    }

    fn get(&mut self, place: u64, bytes: u64) -> Result<Vec<u8>, Errno> {
        let mut content = vec![0; bytes as usize];
        let read = self.file()?.read_exact_at(&mut content, place * BYTES_MAX);
        read.map(|()| content).map_err(|_| Errno::EIO)
    }

    fn remove(&mut self, place: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Some(file) = &self.file {
            // What cannot be given back is used again.
            let _ = rustix::fs::fallocate(file, flags, place * BYTES_MAX, BYTES_MAX);
        }
        self.free.push(place);
    }
}

#[derive(Debug, Clone, Copy)]
struct Message {
    kind: i64,
    bytes: u64,
    place: u64,
}

#[derive(Debug)]
struct Queue {
    permissions: Permissions,
    messages: VecDeque<Message>,
    bytes: u64,
    limit: u64,
    /// Last sent, last received, changed.
    times: [u64; 3],
    /// Who sent last, and who received.
    last: [i32; 2],
}

impl Object for Queue {
    fn permissions(&self) -> &Permissions {
        &self.permissions
    }
}

/// Pages of the host's that a message takes.
fn charged(bytes: u64) -> u64 {
    bytes.next_multiple_of(abi::PAGE_SIZE)
}

/// What `msgrcv` wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) bytes: u64,
    pub(super) kind: i64,
    pub(super) flags: i32,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Queues {
    ids: Ids<Queue>,
    store: Store,
}

impl Queues {
    pub(super) fn file(&self) -> Option<&File> {
        self.store.file.as_ref()
    }

    pub(super) fn get(&mut self, owner: Owner, key: i32, flags: i32) -> Result<Answer, Errno> {
        let permissions = match self.ids.get(key, flags, owner, |_| Ok(()))? {
            Got::There(id) => return Ok(Answer::of(id as u64)),
            Got::New(permissions) => permissions,
        };
        let queue = Queue {
            permissions,
            messages: VecDeque::new(),
            bytes: 0,
            limit: QUEUE_BYTES,
            times: [0, 0, now()],
            last: [0; 2],
        };
        Ok(Answer::of(self.ids.add(queue, QUEUES_MAX)? as u64))
    }

    /// Sends a message; `false` if there is no room for it now.
    ///
    /// # Errors
    /// As `msgsnd(2)`.
    pub(super) fn send(
        &mut self,
        account: &dyn Account,
        (owner, pid): (Owner, i32),
        (id, kind): (i32, i64),
        content: &[u8],
    ) -> Result<bool, Errno> {
        let bytes = content.len() as u64;
        if kind < 1 || bytes > BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let queue = self.ids.find(id)?;
        queue.permissions.check(owner, WRITE)?;
        let is_full =
            queue.bytes + bytes > queue.limit || queue.messages.len() as u64 >= queue.limit;
        if is_full {
            return Ok(false);
        }
        if !account.charge(charged(bytes)) {
            return Err(Errno::ENOMEM);
        }
        let place = self.store.put(content).inspect_err(|_| account.release(charged(bytes)))?;
        queue.messages.push_back(Message { kind, bytes, place });
        queue.bytes += bytes;
        queue.times[0] = now();
        queue.last[0] = pid;
        Ok(true)
    }

    /// Receives a message: its type, and what it says. `None` if there is none now.
    ///
    /// # Errors
    /// As `msgrcv(2)`.
    pub(super) fn receive(
        &mut self,
        account: &dyn Account,
        (owner, pid): (Owner, i32),
        (id, wanted): (i32, Wanted),
    ) -> Result<Option<(i64, Vec<u8>)>, Errno> {
        let Wanted { bytes, kind, flags } = wanted;
        if bytes > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let copies = flags & MSG_COPY != 0;
        if copies && (flags & MSG_EXCEPT != 0 || flags & libc::IPC_NOWAIT == 0) {
            return Err(Errno::EINVAL);
        }
        let queue = self.ids.find(id)?;
        queue.permissions.check(owner, READ)?;
        let messages = queue.messages.iter();
        let place = match kind {
            _ if copies => usize::try_from(kind).ok().filter(|at| *at < queue.messages.len()),
            0 => (!queue.messages.is_empty()).then_some(0),
            1.. if flags & MSG_EXCEPT != 0 => {
                queue.messages.iter().position(|message| message.kind != kind)
            }
            1.. => queue.messages.iter().position(|message| message.kind == kind),
            _ => {
                let most = kind.checked_neg().unwrap_or(i64::MAX);
                let few = messages.enumerate().filter(|(_, message)| message.kind <= most);
                few.min_by_key(|(at, message)| (message.kind, *at)).map(|(at, _)| at)
            }
        };
        let Some((at, message)) = place.and_then(|at| Some((at, *queue.messages.get(at)?))) else {
            return Ok(None);
        };
        if message.bytes > bytes && flags & MSG_NOERROR == 0 {
            return Err(Errno::from_raw(libc::E2BIG));
        }
        let content = self.store.get(message.place, message.bytes.min(bytes))?;
        if !copies {
            queue.messages.remove(at);
            queue.bytes -= message.bytes;
            queue.times[1] = now();
            queue.last[1] = pid;
            self.store.remove(message.place);
            account.release(charged(message.bytes));
        }
        Ok(Some((message.kind, content)))
    }

    pub(super) fn has(&mut self, id: i32) -> bool {
        self.ids.find(id).is_ok()
    }

    pub(super) fn control(
        &mut self,
        account: &dyn Account,
        owner: Owner,
        (id, command, set, limit): (i32, i32, [u64; 3], u64),
    ) -> Result<Answer, Errno> {
        match command {
            libc::IPC_INFO | MSG_INFO => {
                let (queues, messages, bytes) = self.ids.all().fold((0, 0, 0), |sum, queue| {
                    (sum.0 + 1, sum.1 + queue.messages.len() as u64, sum.2 + queue.bytes)
                });
                let (pool, map, headers) = match command {
                    MSG_INFO => (queues, messages, bytes),
                    _ => (QUEUES_MAX as u64 * QUEUE_BYTES / 1024, QUEUE_BYTES, QUEUE_BYTES),
                };
                let words =
                    vec![pool, map, BYTES_MAX, QUEUE_BYTES, QUEUES_MAX as u64, 16, headers, 0xffff];
                Ok(Answer { value: self.ids.highest(), words, file: None })
            }
            libc::IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
                let is_stat = command == libc::IPC_STAT;
                let id = if is_stat { id } else { self.ids.at(id)? };
                let queue = self.ids.find(id)?;
                if command != MSG_STAT_ANY {
                    queue.permissions.check(owner, READ)?;
                }
                let mut words = queue.permissions.words().to_vec();
                words.extend(queue.times);
                words.extend([queue.bytes, queue.messages.len() as u64, queue.limit]);
                words.extend(queue.last.map(|pid| pid as u64));
                Ok(Answer { value: if is_stat { 0 } else { id as u64 }, words, file: None })
            }
            libc::IPC_SET => {
                let queue = self.ids.find(id)?;
                queue.permissions.check_owner(owner)?;
                if limit > QUEUE_BYTES {
                    return Err(Errno::EPERM);
                }
                queue.permissions.set(set);
                queue.limit = limit;
                queue.times[2] = now();
                Ok(Answer::default())
            }
            libc::IPC_RMID => {
                self.ids.find(id)?.permissions.check_owner(owner)?;
                for message in self.ids.remove(id)?.messages {
                    self.store.remove(message.place);
                    account.release(charged(message.bytes));
                }
                Ok(Answer::default())
            }
            _ => Err(Errno::EINVAL),
        }
    }
}
