//! The versions of a space: which is the newest, waiting for a newer one, making them durable, keeping one,
//! and opening an old one.

use std::time::{Duration, Instant};

use abi::Errno;

use super::vm::VmSpace;
use super::{Backend, Space, check_home, options};
use crate::brand::{Brand, During, Handles};
use crate::error::{Error, ObjectKind, Result};
use crate::handle::VasHandle;
use crate::location::wait::LockMode;
use crate::objects::failed;
use crate::objects::vas::Vas;
use crate::sys::{vas_message, vas_sync, vas_version, vas_wait};
use crate::thread_state::{self, Scope};
use crate::token::{In, Write};

impl<V: Brand> In<V, Write> {
    /// What this change is for: a line of at most 120 bytes that `spacejmp vas log` shows with the version which the
    /// visit makes. An empty one takes it back. Where nothing keeps versions, in the memory of a process that is not in
    /// a VM ([`Space::in_memory`]), it is not kept either.
    ///
    /// ```no_run
    /// # use spacejmp::{Error, Space};
    /// # spacejmp::brand! { Stock<'v> => u64 }
    /// Space::<Stock>::open("stock")?.write(|v| {
    ///     v.message("one more, as ordered")?;
    ///     Ok::<_, Error>(*v.root_mut().0 += 1)
    /// })?;
    /// # Ok::<_, Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotVersioned`]; [`Error::Call`] with `EINVAL` for more than 120 bytes, or control characters.
    pub fn message(&self, text: &str) -> Result<()> {
        match vas_message(text) {
            // Outside a VM.
            Ok(()) | Err(Errno::ENOSYS) => Ok(()),
            Err(Errno::EPERM) => Err(Error::NotVersioned { space: V::NAME.to_owned() }),
            Err(errno) => Err(failed("describe a change to", ObjectKind::Vas, V::NAME)(errno)),
        }
    }
}

/// Of versioned spaces; others fail with [`Error::NotVersioned`].
impl<V: Brand> Space<V> {
    /// The number of the newest version: what a visit that begins now would see. It rises with every
    /// commit, whoever makes it. If more segments of the VAS are versioned, the sum of their numbers.
    ///
    /// # Errors
    /// [`Error::NotVersioned`]; those of attaching it ([`read`](Space::read)).
    pub fn version(&self) -> Result<u64> {
        let _paused = thread_state::with_scope(Scope::Outside);
        vas_version(self.reader()?).map_err(failed(
            "ask for the version of",
            ObjectKind::Vas,
            &self.name,
        ))
    }

    /// All that was committed so far survives a power cut from now on, whoever committed it. Returns its
    /// version. Where commits are durable before they return ([`Durability::Each`]) there is nothing
    /// left to do.
    ///
    /// [`Durability::Each`]: crate::sys::Durability::Each
    ///
    /// # Errors
    /// [`Error::NotVersioned`]; [`Error::Call`] with `EIO` if the disk has failed: the next change stores anew
    /// what can be read back; those of attaching it ([`read`](Space::read)).
    pub fn sync(&self) -> Result<u64> {
        let _paused = thread_state::with_scope(Scope::Outside);
        vas_sync(self.reader()?).map_err(failed("sync", ObjectKind::Vas, &self.name))
    }

    /// Waits until there is a version newer than `after`, which it returns; `None` when `limit` has
    /// passed. No right to write is needed. A thread that is inside to read may wait: what it sees
    /// does not move.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use spacejmp::Space;
    /// # spacejmp::brand! { News<'v> => u64 }
    /// let news = Space::<News>::open_read_only("news")?;
    /// let mut seen = 0;
    /// while let Some(version) = news.wait_newer(seen, Duration::from_secs(60))? {
    ///     println!("version {version}: {}", news.read(|v| *v.root())?);
    ///     seen = version;
    /// }
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotVersioned`]; [`Error::Call`] with `EDEADLK` if the thread is inside to write a versioned
    /// space, and so keeps others from it; those of attaching it ([`read`](Space::read)).
    pub fn wait_newer(&self, after: u64, limit: Duration) -> Result<Option<u64>> {
        let _paused = thread_state::with_scope(Scope::Outside);
        let (reader, began) = (self.reader()?, Instant::now());
        loop {
            match vas_wait(reader, after, limit.saturating_sub(began.elapsed())) {
                Ok(version) => return Ok(Some(version)),
                Err(Errno::ETIMEDOUT) => return Ok(None),
                // A signal was handled.
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(failed("wait for", ObjectKind::Vas, &self.name)(errno));
                }
            }
        }
    }

    /// Keeps the newest version under a name, with those of the VAS's other versioned segments of the same
    /// moment: durably, in constant time. [`at`](Space::at) opens it. What the calling thread has changed
    /// in a visit that goes on is not kept.
    ///
    /// # Errors
    /// [`Error::NotVersioned`]; [`Error::Call`] with the errors of [`vas_tag`](crate::sys::vas_tag):
    /// `EEXIST` if there is a tag of that name, `EINVAL` if it is a number, `EACCES` without the
    /// right to write.
    pub fn tag(&self, tag: &str) -> Result<()> {
        let _paused = thread_state::with_scope(Scope::Outside);
        self.versioned()?.vas.tag(tag).map(|_| ())
    }

    /// An old version, which cannot be written: a tag, or the number of a version that the log still
    /// has, or that is tagged.
    ///
    /// It is at the addresses of the newest one, so that the threads of a process visit the two one
    /// after another ([`Error::SameAddresses`]). The brand is the same one, so that the same
    /// functions read both: its handles end with the visit, and none meets another version.
    ///
    /// ```no_run
    /// # use spacejmp::{Error, Space};
    /// # spacejmp::brand! { Stock<'v> => u64 }
    /// let stock = Space::<Stock>::open("stock")?;
    /// stock.tag("monday")?;
    /// stock.write(|v| Ok::<_, Error>(*v.root_mut().0 += 1))?;
    /// let monday = stock.at("monday")?;
    /// assert!(stock.read(|v| *v.root())? > monday.read(|v| *v.root())?);
    /// # Ok::<_, Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotVersioned`]; [`Error::KeptHandles`] if the brand has no lifetime; [`Error::Call`] with
    /// `ENOENT` if there is no such version, or it is not kept any more; as [`Space::open_read_only`].
    /// [`Error::NotUpgraded`] if its root object is of an earlier type: [`at_as`](Space::at_as) reads it.
    pub fn at(&self, version: &str) -> Result<Space<V>> {
        check_home(&self.name)?;
        let old = self.version_at(version)?;
        // Two VASes have one brand then, as any two spaces whose brand has a lifetime. But these have the same
        // addresses, by which destructors tell spaces from each other. They touch memory only in a visit that
        // writes: the old one is read-only, whatever the store allows (`false` above, for good).
        options::open_unclaimed(old)
    }

    /// The VAS of an old version, to be read.
    pub(super) fn version_at(&self, version: &str) -> Result<VmSpace> {
        let space = self.name.clone();
        if V::Handles::ARE_KEPT {
            return Err(Error::KeptHandles { brand: During::<'static, V>::NAME, space });
        }
        self.versioned()?;
        let old = VmSpace::new(Vas::find(&format!("{space}@{version}"))?, false)?;
        if !old.is_versioned {
            return Err(Error::NotVersioned { space: old.vas.name().to_owned() });
        }
        Ok(old)
    }

    fn versioned(&self) -> Result<&VmSpace> {
        match &self.backend {
            Backend::Vm(vm) if vm.is_versioned => Ok(vm),
            _ => Err(Error::NotVersioned { space: self.name.clone() }),
        }
    }

    /// The instance to ask by, which needs no right to write.
    fn reader(&self) -> Result<VasHandle> {
        Ok(self.versioned()?.target(LockMode::Shared)?.location.vh)
    }
}
