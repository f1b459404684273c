//! What the three kinds of System V objects have in common: numbers, keys and permissions.
#![forbid(unsafe_code)]

use std::time::SystemTime;

use abi::Errno;

/// The most objects of one kind (Linux's `IPCMNI`).
pub(super) const IDS_MAX: usize = 1 << 15;
/// What a number's index is multiplied with for its sequence.
const SEQUENCE: i64 = 1 << 15;

/// Who may do what with an object (`struct ipc64_perm`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Permissions {
    pub(super) key: i32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) creator: [u32; 2],
    pub(super) mode: u32,
    pub(super) sequence: u16,
}

/// The user and the group of a run's processes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// `ipcget`'s flags, beside the mode.
const CREATE: i32 = libc::IPC_CREAT;
const EXCLUSIVE: i32 = libc::IPC_EXCL;
const PRIVATE: i32 = libc::IPC_PRIVATE;

pub(super) const READ: u32 = 0o4;
pub(super) const WRITE: u32 = 0o2;

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Permissions {
    fn owns(&self, owner: Owner) -> bool {
        owner.uid == self.uid || owner.uid == self.creator[0]
    }

    /// # Errors
    /// `EACCES`.
    pub(super) fn check(&self, owner: Owner, wanted: u32) -> Result<(), Errno> {
        let granted = match () {
            () if self.owns(owner) => self.mode >> 6,
            () if owner.gid == self.gid || owner.gid == self.creator[1] => self.mode >> 3,
            () => self.mode,
        };
        if wanted & !granted & 0o7 == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// For `IPC_SET` and `IPC_RMID`.
    ///
    /// # Errors
    /// `EPERM`.
    pub(super) fn check_owner(&self, owner: Owner) -> Result<(), Errno> {
        if self.owns(owner) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`.
    pub(super) fn set(&mut self, [uid, gid, mode]: [u64; 3]) {
        self.uid = uid as u32;
        self.gid = gid as u32;
        self.mode = self.mode & !0o777 | mode as u32 & 0o777;
    }

    /// As words, in the order of the structure.
    pub(super) fn words(&self) -> [u64; 7] {
        let Permissions { key, uid, gid, creator: [cuid, cgid], mode, sequence } = *self;
        let [uid, gid, cuid, cgid] = [uid, gid, cuid, cgid].map(u64::from);
        [key as u32 as u64, uid, gid, cuid, cgid, u64::from(mode), u64::from(sequence)]
    }
}

/// Something with permissions.
pub(super) trait Object {
    fn permissions(&self) -> &Permissions;
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Ids<T> {
    objects: Vec<Option<T>>,
    sequence: u16,
}

impl<T> Default for Ids<T> {
    fn default() -> Ids<T> {
        Ids { objects: Vec::new(), sequence: 0 }
    }
}

/// What `shmget` and its kin come to.
pub(super) enum Got {
    There(i32),
    /// To be made, with these permissions.
    New(Permissions),
}

impl<T: Object> Ids<T> {
    fn id_of(&self, index: usize, object: &T) -> i32 {
        (i64::from(object.permissions().sequence) * SEQUENCE + index as i64) as i32
    }

    /// Looks up a key.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EACCES`, and those of `fits`.
    pub(super) fn get(
        &self,
        key: i32,
        flags: i32,
        owner: Owner,
        fits: impl FnOnce(&T) -> Result<(), Errno>,
    ) -> Result<Got, Errno> {
        let mode = flags.cast_unsigned() & 0o777;
        let mut objects = self.objects.iter().enumerate();
        let found = objects.find_map(|(index, object)| {
            let object = object.as_ref()?;
            (key != PRIVATE && object.permissions().key == key).then_some((index, object))
        });
        if let Some((index, object)) = found {
            if flags & CREATE != 0 && flags & EXCLUSIVE != 0 {
                return Err(Errno::EEXIST);
            }
            fits(object)?;
            let wanted = mode >> 6 | mode >> 3 | mode;
            object.permissions().check(owner, wanted & 0o7)?;
            return Ok(Got::There(self.id_of(index, object)));
        }
        if key != PRIVATE && flags & CREATE == 0 {
            return Err(Errno::ENOENT);
        }
        let Owner { uid, gid } = owner;
        let sequence = self.sequence;
        Ok(Got::New(Permissions { key, uid, gid, creator: [uid, gid], mode, sequence }))
    }

    /// Adds an object; its number.
    ///
    /// # Errors
    /// `ENOSPC` if there are `most`.
    pub(super) fn add(&mut self, object: T, most: usize) -> Result<i32, Errno> {
        let free = self.objects.iter().position(Option::is_none);
        let index = free.unwrap_or(self.objects.len());
        if index >= most.min(IDS_MAX) {
            return Err(Errno::ENOSPC);
        }
        let id = self.id_of(index, &object);
        match self.objects.get_mut(index) {
            Some(place) => *place = Some(object),
            None => self.objects.push(Some(object)),
        }
        // The next object at this place has another number.
        self.sequence = (self.sequence + 1) & 0x7fff;
        Ok(id)
    }

    fn index(&self, id: i32) -> Result<usize, Errno> {
        let index = usize::try_from(i64::from(id) % SEQUENCE).map_err(|_| Errno::EINVAL)?;
        let object = self.objects.get(index).and_then(Option::as_ref).ok_or(Errno::EINVAL)?;
        if self.id_of(index, object) == id { Ok(index) } else { Err(Errno::EINVAL) }
    }

    /// # Errors
    /// `EINVAL`.
    pub(super) fn find(&mut self, id: i32) -> Result<&mut T, Errno> {
        let index = self.index(id)?;
        self.objects.get_mut(index).and_then(Option::as_mut).ok_or(Errno::EINVAL)
    }

    /// # Errors
    /// `EINVAL`.
    pub(super) fn remove(&mut self, id: i32) -> Result<T, Errno> {
        let index = self.index(id)?;
        self.objects.get_mut(index).and_then(Option::take).ok_or(Errno::EINVAL)
    }

    /// The number of the object at an index, for `SHM_STAT` and its kin.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn at(&self, index: i32) -> Result<i32, Errno> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)?;
        let object = self.objects.get(index).and_then(Option::as_ref).ok_or(Errno::EINVAL)?;
        Ok(self.id_of(index, object))
    }

    /// The highest index in use, 0 if there is none.
    pub(super) fn highest(&self) -> u64 {
        self.objects.iter().rposition(Option::is_some).unwrap_or(0) as u64
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.objects.iter().flatten()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (i32, &mut T)> {
        self.objects.iter_mut().zip(0_i64..).filter_map(|(object, index)| {
            let object = object.as_mut()?;
            let id = i64::from(object.permissions().sequence) * SEQUENCE + index;
            Some((id as i32, object))
        })
    }
}
