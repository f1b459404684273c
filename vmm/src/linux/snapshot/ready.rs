//! `ready`: the program says where copies of it are to begin, and a copy asks what it was started with.
//!
//! The process's own thread makes the whole snapshot here, as `control::snapshot` has it made from outside: nobody
//! need be there who asks. It does so in the call, so a copy comes back from the call, too, and knows that it is one. Other
//! threads stand meanwhile, as for one who asks from outside, and go on from there.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;

use super::head::{Head, KeptExecutable};
use super::{Refusal, give_up, readable_path, write_by_itself};
use crate::linux::task::ThreadCtx;
use crate::private::snapshot::NotKept;
use crate::store::{Name, NewSnapshot, Store, StoreError};
use crate::vas::attach::kept::NotKept as NotKeptVases;

/// What a run does when its program is ready: it makes a snapshot, once.
#[derive(Debug)]
pub struct AtReady {
    store: PathBuf,
    name: Name,
    came: AtomicBool,
}

/// Why there is no snapshot, though the program was ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadyError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("its address spaces are in another store")]
    OtherStore,
    #[error("its executable has no path by which it could be found again")]
    Executable(#[source] io::Error),
}

impl ReadyError {
    /// What the program gets.
    fn errno(&self) -> Errno {
        let host = |error: &io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        match self {
            ReadyError::Store(error) => error.errno(),
            ReadyError::Executable(error)
            | ReadyError::Refused(Refusal::Memory(NotKept::Host(error))) => host(error),
            ReadyError::Refused(Refusal::Vases(NotKeptVases::Version { source, .. })) => {
                source.errno()
            }
            ReadyError::OtherStore => Errno::EBUSY,
            ReadyError::Refused(Refusal::Files(errno)) => *errno,
            ReadyError::Refused(Refusal::Registers(_)) => Errno::EIO,
            ReadyError::Refused(_) => Errno::EBUSY,
        }
    }
}

impl AtReady {
    /// The snapshot will be `name` in `store`. It is looked at now whether one can be made there, of this name: what
    /// was to come of the program's work is not to be found out at its end.
    ///
    /// # Errors
    /// Those of [`Store::begin_snapshot`].
    pub fn new(store: PathBuf, name: Name) -> Result<AtReady, StoreError> {
        drop(Store::open_or_create(&store)?.begin_snapshot(&name)?);
        Ok(AtReady { store, name, came: AtomicBool::new(false) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Whether the program has been ready, whatever came of it.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    fn make(&self, ctx: &ThreadCtx<'_>) -> Result<(), ReadyError> {
        let store = Store::open(&self.store)?;
        let new = store.begin_snapshot(&self.name)?;
        let to = new.memory_to_write()?;
        let (head, executable) = write_by_itself(ctx, to)?;
        let vases = head.vases.clone();
        let made = self.finish(ctx, new, head, &executable);
        if made.is_err() {
            give_up(ctx.process, vases.as_ref());
        }
        made
    }

    fn finish(
        &self,
        ctx: &ThreadCtx<'_>,
        new: NewSnapshot<'_>,
        head: Head,
        executable: &File,
    ) -> Result<(), ReadyError> {
        if head.vases.as_ref().is_some_and(|vases| vases.store != new.store().id()) {
            return Err(ReadyError::OtherStore);
        }
        let host = readable_path(executable.as_fd()).map_err(ReadyError::Executable)?;
        let head = Head {
            memory_bytes: new.memory_bytes()?,
            executable: KeptExecutable { host, ..head.executable },
            ready: Some(ctx.thread.owner.cast_unsigned()),
            ..head
        };
        Ok(new.finish(&head.encode(), &head.versions())?)
    }
}

/// The program is ready. Makes the snapshot that the run was asked for, if it was, and this is the first time.
///
/// # Errors
/// `EBUSY` for a process that cannot be snapshotted as it is now; what the store or the host says.
pub(crate) fn ready(ctx: &ThreadCtx<'_>) -> Result<(), Errno> {
    let Some(at) = &ctx.process.vm.at_ready else { return Ok(()) };
    if at.came.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let _span = tracing::debug_span!("snapshot", name = %at.name).entered();
    at.make(ctx).map_err(|error| {
        // The program may not look at what it gets, and has no words for it.
        let name = &at.name;
        tracing::warn!("cannot make snapshot '{name}': {}", crate::error::chain(&error));
        error.errno()
    })
}

/// What a copy is started with, as it gets it: how many arguments there are, how many variables, and all of them,
/// each with a zero after it.
#[must_use]
pub(crate) fn bytes(arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Vec<u8> {
    let counts = [arguments, environment].map(|list| (list.len() as u64).to_le_bytes());
    let texts = arguments.iter().chain(environment).flat_map(|text| [text.as_slice(), &[0]]);
    counts.iter().map(<[u8; 8]>::as_slice).chain(texts).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::{AtReady, ReadyError, Refusal, bytes};
    use crate::private::snapshot::NotKept;
    use crate::store::{Name, Store, StoreError};

    #[test]
    fn a_copy_gets_two_counts_and_then_each_text_with_its_end() {
        let list =
            |texts: &[&str]| texts.iter().map(|it| it.as_bytes().to_vec()).collect::<Vec<_>>();
        let made = bytes(&list(&["./a", ""]), &list(&["B=c"]));
        let (counts, texts) = made.split_at(16);
        assert_eq!(counts, [2_u64, 1].map(u64::to_le_bytes).as_flattened());
        assert_eq!(texts, b"./a\0\0B=c\0");
        assert_eq!(bytes(&[], &[]), [0; 16]);
    }

    #[test]
    fn a_name_that_is_taken_is_known_before_anything_runs_and_looking_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let name = Name::new(b"warm").unwrap();
        let at = AtReady::new(path.clone(), name.clone()).unwrap();
        assert!(!at.has_come());
        assert!(Store::open(&path).unwrap().snapshots().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(path.join("snapshots")).unwrap().count(), 0);
        Store::open(&path).unwrap().begin_snapshot(&name).unwrap().finish(b"", &[]).unwrap();
        assert!(matches!(AtReady::new(path, name), Err(StoreError::Exists(_))));
    }

    #[test]
    fn the_program_gets_the_hosts_number_or_that_it_is_busy() {
        let full = || std::io::Error::from_raw_os_error(libc::ENOSPC);
        let of = |refusal: Refusal| ReadyError::from(refusal).errno();
        assert_eq!(of(Refusal::Memory(NotKept::Host(full()))), Errno::ENOSPC);
        assert_eq!(of(Refusal::Memory(NotKept::Shared { at: 1 })), Errno::EBUSY);
        assert_eq!(of(Refusal::Files(Errno::ENOENT)), Errno::ENOENT);
        assert_eq!(of(Refusal::Debugged), Errno::EBUSY);
        assert_eq!(ReadyError::Executable(full()).errno(), Errno::ENOSPC);
    }
}
