//! The versions of a space: which is the newest, waiting for a newer one, making them durable, and opening
//! an old one.

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
use crate::sys::{vas_sync, vas_version, vas_wait};
use crate::thread_state::{self, Scope};

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
    /// passed. No right to write is needed. A thread that is inside to read may wait: what it sees does not move.
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

    /// An old version: a tag, or the number of a version that is tagged, which cannot be written. The
    /// brand is the same one: its handles end with the visit, so none meets another version.
    ///
    /// # Errors
    /// [`Error::NotVersioned`]; [`Error::KeptHandles`] if the brand has no lifetime; [`Error::Call`] with
    /// `ENOENT` if there is no such version, or it is not kept any more; as [`Space::open`].
    pub fn at(&self, version: &str) -> Result<Space<V>> {
        check_home(&self.name)?;
        let space = self.name.clone();
        if V::Handles::ARE_KEPT {
            return Err(Error::KeptHandles { brand: During::<'static, V>::NAME, space });
        }
        self.versioned()?;
        let vas = Vas::find(&format!("{space}@{version}"))?;
        options::open(VmSpace::new(vas, false)?)
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
