//! Shared memory segments: files in memory that nobody can resize.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;

use abi::{Errno, PAGE_SIZE};
use rustix::fs::{MemfdFlags, SealFlags};

use super::ids::{Got, Ids, Object, Owner, Permissions, READ, WRITE, now};
use super::{Account, Answer};

const SEGMENTS_MAX: usize = 4096;
/// `SHMMAX`.
const BYTES_MAX: u64 = u64::MAX - (1 << 24);
const DESTROYED: u32 = 0o1000;
const LOCKED: u32 = 0o2000;
const SHM_STAT_ANY: i32 = 15;
const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;

#[derive(Debug)]
struct Segment {
    permissions: Permissions,
    file: File,
    bytes: u64,
    charged: u64,
    times: [u64; 3],
    creator: i32,
    last: i32,
    /// How often each process has it attached.
    attached: BTreeMap<i32, u64>,
}

impl Object for Segment {
    fn permissions(&self) -> &Permissions {
        &self.permissions
    }
}

impl Segment {
    fn count(&self) -> u64 {
        self.attached.values().sum()
    }

    fn is_over(&self) -> bool {
        self.permissions.mode & DESTROYED != 0 && self.attached.is_empty()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Segments(Ids<Segment>);

impl Segments {
    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.0.all().map(|segment| &segment.file)
    }

    pub(super) fn get(
        &mut self,
        account: &dyn Account,
        (owner, pid): (Owner, i32),
        (key, bytes, flags): (i32, u64, i32),
    ) -> Result<Answer, Errno> {
        let fits = |segment: &Segment| match bytes > segment.bytes {
            true => Err(Errno::EINVAL),
            false => Ok(()),
        };
        let permissions = match self.0.get(key, flags, owner, fits)? {
            Got::There(id) => return Ok(Answer::of(id as u64)),
            Got::New(permissions) => permissions,
        };
        if bytes == 0 || bytes > BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        if flags & libc::SHM_HUGETLB != 0 {
            return Err(Errno::ENOMEM);
        }
        let charged = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        if !account.charge(charged) {
            return Err(Errno::ENOMEM);
        }
        let made = file(key, charged).and_then(|file| {
            let (times, attached) = ([0, 0, now()], BTreeMap::new());
            let segment = Segment {
                permissions,
                file,
                bytes,
                charged,
                times,
                creator: pid,
                last: 0,
                attached,
            };
            self.0.add(segment, SEGMENTS_MAX)
        });
        if made.is_err() {
            account.release(charged);
        }
        Ok(Answer::of(made? as u64))
    }

    /// Attaches a segment: its size, and its file.
    pub(super) fn attach(
        &mut self,
        (owner, pid): (Owner, i32),
        (id, reads_only, executes): (i32, bool, bool),
    ) -> Result<Answer, Errno> {
        let segment = self.0.find(id)?;
        let wanted = if reads_only { READ } else { READ | WRITE };
        segment.permissions.check(owner, wanted | u32::from(executes))?;
        let file = segment.file.try_clone().map_err(|_| Errno::ENOMEM)?;
        *segment.attached.entry(pid).or_default() += 1;
        segment.times[0] = now();
        segment.last = pid;
        Ok(Answer { value: segment.bytes, file: Some(file), ..Answer::default() })
    }

    pub(super) fn detach(&mut self, account: &dyn Account, pid: i32, id: i32) -> Result<(), Errno> {
        let segment = self.0.find(id)?;
        let count = segment.attached.get_mut(&pid).ok_or(Errno::EINVAL)?;
        *count -= 1;
        if *count == 0 {
            segment.attached.remove(&pid);
        }
        segment.times[1] = now();
        segment.last = pid;
        self.end_if_over(account, id)
    }

    fn end_if_over(&mut self, account: &dyn Account, id: i32) -> Result<(), Errno> {
        if self.0.find(id)?.is_over() {
            account.release(self.0.remove(id)?.charged);
        }
        Ok(())
    }

    /// A child has what its parent has.
    pub(super) fn inherit(&mut self, parent: i32, child: i32) {
        for (_, segment) in self.0.all_mut() {
            if let Some(count) = segment.attached.get(&parent).copied() {
                segment.attached.insert(child, count);
            }
        }
    }

    /// A process has none any longer.
    pub(super) fn detach_all(&mut self, account: &dyn Account, pid: i32) {
        let mut over = Vec::new();
        for (id, segment) in self.0.all_mut() {
            if segment.attached.remove(&pid).is_some() {
                segment.times[1] = now();
                segment.last = pid;
                over.push(id);
            }
        }
        for id in over {
            let _ = self.end_if_over(account, id);
        }
    }

    pub(super) fn control(
        &mut self,
        account: &dyn Account,
        (owner, pid): (Owner, i32),
        (id, command, set): (i32, i32, [u64; 3]),
    ) -> Result<Answer, Errno> {
        let _ = pid;
        match command {
            libc::IPC_INFO => {
                let words = vec![
                    BYTES_MAX,
                    1,
                    SEGMENTS_MAX as u64,
                    SEGMENTS_MAX as u64,
                    BYTES_MAX / PAGE_SIZE,
                ];
                Ok(Answer { value: self.0.highest(), words, ..Answer::default() })
            }
            SHM_INFO => {
                let pages: u64 = self.0.all().map(|segment| segment.charged / PAGE_SIZE).sum();
                let words = vec![self.0.all().count() as u64, pages, pages, 0, 0, 0];
                Ok(Answer { value: self.0.highest(), words, ..Answer::default() })
            }
            libc::IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
                let of = if command == libc::IPC_STAT { id } else { self.0.at(id)? };
                let segment = self.0.find(of)?;
                if command != SHM_STAT_ANY {
                    segment.permissions.check(owner, READ)?;
                }
                let [attached, detached, changed] = segment.times;
                let mut words = segment.permissions.words().to_vec();
                words.extend([segment.bytes, attached, detached, changed]);
                words.extend([segment.creator as u64, segment.last as u64, segment.count()]);
                let value = if command == libc::IPC_STAT { 0 } else { of as u64 };
                Ok(Answer { value, words, ..Answer::default() })
            }
            libc::IPC_SET => {
                let segment = self.0.find(id)?;
                segment.permissions.check_owner(owner)?;
                segment.permissions.set(set);
                segment.times[2] = now();
                Ok(Answer::default())
            }
            libc::IPC_RMID => {
                let segment = self.0.find(id)?;
                segment.permissions.check_owner(owner)?;
                segment.permissions.mode |= DESTROYED;
                segment.permissions.key = libc::IPC_PRIVATE;
                self.end_if_over(account, id)?;
                Ok(Answer::default())
            }
            SHM_LOCK | SHM_UNLOCK => {
                let segment = self.0.find(id)?;
                segment.permissions.check_owner(owner)?;
                segment.permissions.mode &= !LOCKED;
                if command == SHM_LOCK {
                    segment.permissions.mode |= LOCKED;
                }
                Ok(Answer::default())
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

fn file(key: i32, bytes: u64) -> Result<File, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let errno = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let file = rustix::fs::memfd_create(format!("SYSV{key:08x}"), flags).map_err(errno)?;
    rustix::fs::ftruncate(&file, bytes).map_err(errno)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(errno)?;
    Ok(file.into())
}
