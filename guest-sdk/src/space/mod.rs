//! Spaces: a VAS opened with a type, and the ways to go inside.
//!
//! - `switch`: from one location to another; [`visit`]: one visit, from going in to leaving
//! - [`options`], [`vm`]: spaces in a VM, made and opened; [`plain`]: spaces without one
//! - [`versions`]: what versioned spaces have beyond that
//! - `check`: what is stored, checked
//! - [`upgrade`]: root objects of earlier types, made anew; [`old`]: read as they are

mod check;
mod init;
mod old;
mod options;
mod plain;
mod segment_heap;
mod switch;
#[cfg(test)]
mod tests;
mod upgrade;
mod versions;
pub(crate) mod visit;
mod vm;

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use abi::Errno;

use crate::alloc::AllocError;
use crate::brand::{self, Bound, Brand, Claim, Conflict, During, Invariant, RootDuring};
use crate::error::{Error, ObjectKind, Result};
use crate::location::Location;
use crate::location::wait::{LockMode, Wait};
use crate::objects::vas::Vas;
use crate::space_heap::SpaceHeap;
use crate::thread_state::{self, Scope};
use crate::token::{At, In, Mode, Read, Write};
use plain::Plain;
use visit::{Ending, OnOwnerDeath, Refused, Target, access, visit};
use vm::VmSpace;

pub use old::{InOld, OldSpace};
pub use options::SpaceOptions;
pub use upgrade::Opening;

/// A VAS whose root object is a `V::Root`.
///
/// A thread at home goes inside with `read` and `write`, which call a closure with a token and
/// leave again when it returns, returns early, or panics. The shared ones exclude writers, the ones
/// with `mut` all other threads, including those of other programs on the machine.
///
/// Spaces whose segments are at the same addresses, as a segment and its clone are, are visited by the
/// threads of a process one after another: while a thread is inside one, no other thread goes inside
/// another, and waits for that as for a lock; without a limit of its own no longer than ten
/// seconds ([`Error::SameAddresses`]).
///
/// An interrupted change is never taken for a complete one. If the closure of a visit to write
/// panics, or its thread or program ends inside (`main` returns meanwhile, `exit` is called, or it
/// is killed), the space is inconsistent: every visit fails with [`Error::Inconsistent`] until a
/// program has called [`recover`](Space::recover). A panic that is caught inside, and an error that
/// the closure returns, are left to the closure.
///
/// A space of lifetime [`Versioned`](crate::sys::Lifetime::Versioned) is never inconsistent: a visit
/// to write is a version when it has ended with `Ok`, and nothing of it has happened otherwise. Readers then
/// wait for nobody and see the newest version of the moment when they went inside. Its brand has a
/// lifetime ([`brand!`](crate::brand!)), so that no pointer outlives the change that made it.
pub struct Space<V: Brand> {
    name: String,
    backend: Backend,
    /// A `RootDuring<'_, V>`.
    root: NonNull<()>,
    _brand: Invariant<V>,
}

#[derive(Debug)]
enum Backend {
    Plain(Box<Plain>),
    Vm(Box<VmSpace>),
}

// SAFETY: `root` is only used inside, by the rules of tokens.
unsafe impl<V: Brand> Send for Space<V> {}
// SAFETY: as above; what the backend changes is behind locks.
unsafe impl<V: Brand> Sync for Space<V> {}

impl<V: Brand> Space<V> {
    /// A space over plain memory of this process, up to `limit` bytes, that works without a VM
    /// and is gone when it is dropped: for tests. `init` makes the root object.
    ///
    /// ```
    /// use spacejmp::Space;
    ///
    /// spacejmp::brand! { Scores => [u32; 4] }
    ///
    /// let space = Space::<Scores>::in_memory(1 << 20, |_| Ok([0; 4]))?;
    /// space.write(|v| {
    ///     v.root_mut().0[2] = 7;
    ///     Ok::<_, spacejmp::Error>(())
    /// })?;
    /// assert_eq!(space.read(|v| v.root()[2])?, 7);
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BrandTaken`] if there was a space with this brand before, and the brand has no lifetime, [`Error::BrandSpent`],
    /// [`Error::AlreadyInside`], [`Error::Alloc`] if `init` returns it or there is no room for the
    /// root object.
    pub fn in_memory(
        limit: usize,
        init: impl for<'v> FnOnce(&'v At<During<'v, V>, Write>) -> Result<RootDuring<'v, V>, AllocError>,
    ) -> Result<Space<V>> {
        check_home("memory")?;
        let plain = Box::new(Plain::new(limit));
        let name = format!("memory-{:x}", plain.id & !(1 << 63));
        let claim = claim::<V>(plain.id, 0, &name)?;
        let backend = Backend::Plain(plain);
        let target = backend.target(LockMode::Exclusive)?;
        // SAFETY: the thread is at home; the backend outlives the visit.
        let root = unsafe {
            visit::<During<'static, V>, Write, _>(
                target,
                Wait::Forever,
                OnOwnerDeath::Refuse,
                |at| by_result(init::watched::<V, _, _>(&claim, || init::root::<V>(&at, init))),
            )
        };
        let root = root.map_err(|refused| refusal(&name, None, refused))??;
        claim.keep();
        Ok(Space { name, backend, root, _brand: PhantomData })
    }

    /// How to make a space in a VM.
    pub fn options() -> SpaceOptions<V> {
        SpaceOptions::new()
    }

    /// Opens the space `name`, or makes it if there is none, as
    /// [`SpaceOptions::open_or_create`] does without options.
    ///
    /// ```no_run
    /// use spacejmp::Space;
    ///
    /// spacejmp::brand! { Hits<'v> => [u64; 16] }
    ///
    /// let space = Space::<Hits>::open_or_create("hits", |_| Ok([0; 16]))?;
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create(
        name: &str,
        init: impl for<'v> FnOnce(&'v At<During<'v, V>, Write>) -> Result<RootDuring<'v, V>, AllocError>,
    ) -> Result<Space<V>> {
        Space::options().open_or_create(name, init)
    }

    /// Opens the space `name` in a VM. What it is attached with, to read or to write, is decided
    /// by the first visit of that kind.
    ///
    /// # Errors
    /// - [`Error::Call`]: `ENOENT` if there is no such VAS, `EACCES` if it may not be read.
    /// - [`Error::NoRoot`]: no root object was made in a segment of the same name.
    /// - [`Error::WrongRoot`]: it is of another type, or of this one in an incompatible build.
    /// - [`Error::WrongVersion`]: it is of a later version of this type, or of an earlier one that this type does
    ///   not say to be made from; [`Error::NotUpgraded`]: it does, and that is not possible.
    /// - [`Error::BrandTaken`]: this process used the brand for another VAS, and it has no lifetime. The next two are
    ///   of such brands, too.
    /// - [`Error::Replaced`]: it used it for this one, which had another data segment.
    /// - [`Error::BrandSpent`]: an `init` with it failed and left memory behind.
    /// - [`Error::Damaged`]: what is there cannot be a space.
    /// - [`Error::AlreadyInside`], [`Error::NotUnderSpacejmp`].
    pub fn open(name: &str) -> Result<Space<V>> {
        check_home(name)?;
        options::open(VmSpace::new(Vas::find(name)?, true)?)
    }

    /// As [`open`](Space::open), but never to be written: [`write`](Space::write) fails
    /// with `EACCES`.
    ///
    /// # Errors
    /// As [`open`](Space::open).
    pub fn open_read_only(name: &str) -> Result<Space<V>> {
        check_home(name)?;
        options::open(VmSpace::new(Vas::find(name)?, false)?)
    }

    /// Goes inside although a writer did not finish, calls `repair` with what is there, and
    /// declares it consistent.
    ///
    /// # Errors
    /// As [`write`](Space::write) without [`Error::Inconsistent`].
    ///
    /// # Safety
    /// When `repair` is called, the root object and what is reached from it may be half-changed,
    /// the heap too: no method of theirs may be called that relies on more than what the caller
    /// knows to be intact. When it returns, everything must be valid again. A safe way is to copy
    /// the last good state from elsewhere and delete the VAS.
    pub unsafe fn recover<R>(
        &self,
        repair: impl for<'v> FnOnce(&mut In<During<'v, V>, Write>) -> R,
    ) -> Result<R> {
        check_home(&self.name)?;
        let declare = |result| {
            let declared = match &self.backend {
                Backend::Plain(plain) => {
                    plain.lock.set_inconsistent(false);
                    Ok(())
                }
                // SAFETY: `repair` has made it valid, as the caller promises.
                Backend::Vm(vm) => unsafe { vm.segment.recover() },
            };
            (declared.map(|()| result), Ending::Keep)
        };
        // SAFETY: the thread is at home; that the content may be broken is the caller's burden.
        unsafe { self.go_in(Wait::Forever, None, OnOwnerDeath::Accept, repair, declare) }?
    }

    /// The space's name: its VAS's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Goes inside to read, together with other readers. Waits for writers; in a versioned space for
    /// nobody, and sees the newest version of this moment until it leaves.
    ///
    /// ```
    /// # use spacejmp::{Error, Space};
    /// # spacejmp::brand! { Counters<'v> => [u64; 8] }
    /// # let space = Space::<Counters>::in_memory(1 << 20, |_| Ok([0; 8]))?;
    /// let sum: u64 = space.read(|v| v.root().iter().sum())?;
    /// # assert_eq!(sum, 0);
    /// # Ok::<_, Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::AlreadyInside`]; [`Error::Inconsistent`]; [`Error::Changed`];
    /// [`Error::SameAddresses`]; [`Error::NotLockable`]; [`Error::Call`] with the errors of
    /// [`vas_attach`](crate::sys::vas_attach) and [`vas_switch`](crate::sys::vas_switch). The
    /// closure has not been called then.
    pub fn read<R>(&self, f: impl for<'v> FnOnce(&mut In<During<'v, V>, Read>) -> R) -> Result<R> {
        self.when_home(Wait::Forever, None, f, |result| (result, Ending::Keep))
    }

    /// Goes inside to write, alone; waits for all others to leave, in a versioned space for writers.
    ///
    /// What the closure has changed in a versioned space is a new version, as a whole, if it
    /// returns `Ok`, and never was if it returns `Err` or panics. A space that is not versioned cannot
    /// take anything back: whatever the closure returns, its changes stay, so it has to leave the
    /// content valid; after a panic the space is inconsistent.
    ///
    /// ```
    /// use spacejmp::{Error, Space};
    ///
    /// spacejmp::brand! { Counters<'v> => [u64; 8] }
    ///
    /// let space = Space::<Counters>::in_memory(1 << 20, |_| Ok([0; 8]))?;
    /// let before = space.write(|v| {
    ///     let (counters, _) = v.root_mut();
    ///     counters[3] += 1;
    ///     Ok::<_, Error>(counters[3] - 1)
    /// })?;
    /// assert_eq!(before, 0);
    /// # Ok::<_, Error>(())
    /// ```
    ///
    /// # Errors
    /// The closure's own; and, made from an [`Error`], those of [`read`](Space::read), and
    /// [`Error::NotCommitted`] if the closure returned `Ok` and the change cannot be stored: it never was,
    /// then.
    pub fn write<R, E: From<Error>>(
        &self,
        f: impl for<'v> FnOnce(&mut In<During<'v, V>, Write>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.when_home(Wait::Forever, None, f, by_result)?
    }

    /// As [`read`](Space::read), but does not wait.
    ///
    /// # Errors
    /// As [`read`](Space::read), and [`Error::Locked`] if a thread is inside to write.
    pub fn try_read<R>(
        &self,
        f: impl for<'v> FnOnce(&mut In<During<'v, V>, Read>) -> R,
    ) -> Result<R> {
        self.when_home(Wait::Never, Some(Duration::ZERO), f, |result| (result, Ending::Keep))
    }

    /// As [`write`](Space::write), but does not wait.
    ///
    /// # Errors
    /// As [`write`](Space::write), and [`Error::Locked`] if another thread is inside.
    pub fn try_write<R, E: From<Error>>(
        &self,
        f: impl for<'v> FnOnce(&mut In<During<'v, V>, Write>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.when_home(Wait::Never, Some(Duration::ZERO), f, by_result)?
    }

    /// As [`read`](Space::read), but waits no longer than `limit`.
    ///
    /// # Errors
    /// As [`read`](Space::read), and [`Error::Locked`] when the time is over.
    pub fn read_timeout<R>(
        &self,
        limit: Duration,
        f: impl for<'v> FnOnce(&mut In<During<'v, V>, Read>) -> R,
    ) -> Result<R> {
        self.when_home(until(limit), Some(limit), f, |result| (result, Ending::Keep))
    }

    /// As [`write`](Space::write), but waits no longer than `limit`.
    ///
    /// # Errors
    /// As [`write`](Space::write), and [`Error::Locked`] when the time is over.
    pub fn write_timeout<R, E: From<Error>>(
        &self,
        limit: Duration,
        f: impl for<'v> FnOnce(&mut In<During<'v, V>, Write>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.when_home(until(limit), Some(limit), f, by_result)?
    }

    fn when_home<M: Mode, R, T>(
        &self,
        wait: Wait,
        limit: Option<Duration>,
        f: impl for<'v> FnOnce(&mut In<During<'v, V>, M>) -> R,
        end: impl FnOnce(R) -> (T, Ending),
    ) -> Result<T> {
        check_home(&self.name)?;
        // SAFETY: the thread is at home and has no token.
        unsafe { self.go_in(wait, limit, OnOwnerDeath::Refuse, f, end) }
    }

    /// Visits the space from wherever the thread is; `end`, called inside, says what becomes of the changes.
    ///
    /// # Safety
    /// Whatever token the thread has is borrowed mutably until this returns.
    unsafe fn go_in<M: Mode, R, T>(
        &self,
        wait: Wait,
        limit: Option<Duration>,
        on_death: OnOwnerDeath,
        f: impl for<'v> FnOnce(&mut In<During<'v, V>, M>) -> R,
        end: impl FnOnce(R) -> (T, Ending),
    ) -> Result<T> {
        let inside = |at: At<During<'static, V>, M>| {
            // SAFETY: the root is what the space was opened or made with, also in this version.
            let mut token = unsafe { In::new(at, self.root.cast()) };
            end(f(&mut token))
        };
        // SAFETY: the caller's promise. The closure is called for every lifetime, so that handles stay in it
        // if they end with the visit, which those of versioned spaces do (`options::open`).
        unsafe { self.enter(wait, limit, on_death, inside) }
    }

    /// The same, before it is known as what the root object is seen.
    ///
    /// # Safety
    /// As `go_in`; `f` lets no handle out.
    unsafe fn enter<M: Mode, T>(
        &self,
        wait: Wait,
        limit: Option<Duration>,
        on_death: OnOwnerDeath,
        f: impl FnOnce(At<During<'static, V>, M>) -> (T, Ending),
    ) -> Result<T> {
        // What is allocated on the way, and the error, belong to the process.
        let _paused = thread_state::with_scope(Scope::Outside);
        let target = self.backend.target(access::<M>())?;
        let inside = |at: At<During<'static, V>, M>| {
            // SAFETY: the thread is inside.
            if let Err(error) = unsafe { self.backend.check_root() } {
                return (Err(error), Ending::ThrowAway);
            }
            if M::WRITABLE {
                // SAFETY: the thread is inside, writable.
                let checked = unsafe { self.backend.check_heap(&self.name) };
                if let Err(error) = checked {
                    return (Err(error), Ending::ThrowAway);
                }
            }
            let (result, ending) = f(at);
            (Ok(result), ending)
        };
        // SAFETY: the caller's promise; the space outlives the visit.
        unsafe { visit(target, wait, on_death, inside) }
            .map_err(|refused| refusal(&self.name, limit, refused))?
    }
}

/// What was changed stays if the closure says `Ok`.
fn by_result<R, E>(result: Result<R, E>) -> (Result<R, E>, Ending) {
    let ending = Ending::of(&result);
    (result, ending)
}

/// From inside one space into another one. The token is borrowed until the thread is back, so no
/// reference into the first space can be used meanwhile.
///
/// - **From inside a versioned space**, or a space that is visited from inside one, the visit is *nested*: the
///   first one is suspended, with its lock, the version that it sees, and its changes, none of which is
///   committed before it ends itself. The nested visit is a change of its own: it is committed when it ends
///   with `Ok`, whatever becomes of the first. A lock that the thread has already is refused
///   ([`Error::WouldDeadlock`]), and so is one that is not free within ten seconds while it has others.
///   From reading a space to writing the same one there is a way only while what is read is the newest
///   version ([`Error::Newer`]).
/// - **From other spaces**, locks that both need stay held, and the others are released meanwhile, so that what
///   is read again afterwards may have changed. If the thread cannot go back, because a program died holding
///   the first space's lock meanwhile, the process ends with a message: otherwise there would be a token
///   for memory that must not be used.
impl<V: Brand, M: Mode> In<V, M> {
    /// Goes to `space` to read.
    ///
    /// # Errors
    /// As [`Space::read`]; the thread is inside the first space again. [`Error::WouldDeadlock`].
    pub fn read<W: Brand, R>(
        &mut self,
        space: &Space<W>,
        f: impl for<'w> FnOnce(&mut In<During<'w, W>, Read>) -> R,
    ) -> Result<R> {
        let end = |result| (result, Ending::Keep);
        // SAFETY: this token is borrowed mutably, and it is the thread's innermost one.
        unsafe { space.go_in(Wait::Forever, None, OnOwnerDeath::Refuse, f, end) }
    }

    /// Goes to `space` to write.
    ///
    /// # Errors
    /// As [`Space::write`]; the thread is inside the first space again. [`Error::WouldDeadlock`],
    /// [`Error::Newer`].
    pub fn write<W: Brand, R, E: From<Error>>(
        &mut self,
        space: &Space<W>,
        f: impl for<'w> FnOnce(&mut In<During<'w, W>, Write>) -> Result<R, E>,
    ) -> Result<R, E> {
        // SAFETY: as for `read`.
        unsafe { space.go_in(Wait::Forever, None, OnOwnerDeath::Refuse, f, by_result) }?
    }
}

impl Backend {
    fn target(&self, access: LockMode) -> Result<Target> {
        match self {
            Backend::Plain(plain) => {
                let lock = NonNull::from(&plain.lock);
                let heap: Option<NonNull<dyn SpaceHeap>> = Some(NonNull::from(&plain.heap));
                let vh = thread_state::current().location.vh;
                Ok(Target {
                    location: Location { vh, plain: Some((lock, access)), occupancy: None },
                    heap,
                    sid: None,
                    is_versioned: false,
                })
            }
            Backend::Vm(vm) => vm.target(access),
        }
    }
}

impl Backend {
    /// Whether the root object of the version that the thread sees is the space's.
    ///
    /// # Safety
    /// The thread is inside the space.
    #[inline]
    unsafe fn check_root(&self) -> Result<()> {
        match self {
            // SAFETY: the caller's promise.
            Backend::Vm(vm) => unsafe { vm.check_root_of_visit() },
            Backend::Plain(_) => Ok(()),
        }
    }

    /// Whether this program can allocate there: checked once, before the first visit that may, so
    /// that the error gives the reason and is not one of memory.
    ///
    /// # Safety
    /// The thread is inside the space, writable.
    unsafe fn check_heap(&self, space: &str) -> Result<()> {
        let Backend::Vm(vm) = self else { return Ok(()) };
        // SAFETY: the caller's promise.
        unsafe { vm.heap.ensure_known() }
            .map_err(|reason| Error::Damaged { space: space.to_owned(), reason })
    }
}

fn until(limit: Duration) -> Wait {
    Instant::now().checked_add(limit).map_or(Wait::Forever, Wait::Until)
}

pub(crate) fn check_home(space: &str) -> Result<()> {
    let here = thread_state::current();
    match here.brand {
        None => Ok(()),
        Some(_) => Err(already_inside(space)),
    }
}

fn already_inside(space: &str) -> Error {
    let _paused = thread_state::with_scope(Scope::Outside);
    Error::AlreadyInside { space: space.to_owned(), inside: thread_state::current().name }
}

fn claim<V: Brand>(vid: u64, sid: u64, name: &str) -> Result<Claim> {
    let (brand, space) = (During::<'static, V>::NAME, name.to_owned());
    brand::claim::<During<'static, V>>(Bound { vid, sid, name: space.clone() }).map_err(
        |conflict| match conflict {
            Conflict::Taken(of) => Error::BrandTaken { brand, space, taken_by: of.name },
            Conflict::Replaced => Error::Replaced { brand, space },
            Conflict::Spent => Error::BrandSpent { brand, space },
        },
    )
}

pub(crate) fn refusal(name: &str, limit: Option<Duration>, refused: Refused) -> Error {
    let space = name.to_owned();
    match (refused, limit) {
        (Refused::OwnLock, _) => {
            Error::WouldDeadlock { space, inside: thread_state::current().name }
        }
        (Refused::Switch(Errno::EBUSY), _) => Error::Newer { space },
        (Refused::OwnerDead, _) => Error::Inconsistent { space },
        (Refused::NotCommitted(errno), _) => Error::NotCommitted { space, errno },
        (Refused::Switch(Errno::ESTALE), _) => Error::Changed { space },
        (Refused::Switch(Errno::EDEADLK), _) => Error::SameAddresses { space },
        (Refused::Switch(Errno::EAGAIN | Errno::ETIMEDOUT), Some(waited)) => {
            Error::Locked { space, waited }
        }
        (Refused::Switch(errno), _) => {
            Error::Call { verb: "enter", kind: ObjectKind::Vas, name: space, errno }
        }
    }
}

#[cfg(test)]
impl<V: Brand> Space<V> {
    /// Blocks of a space over plain memory that are not freed, the root's among them.
    pub(crate) fn blocks(&self) -> usize {
        match &self.backend {
            Backend::Plain(plain) => plain.heap.count(),
            Backend::Vm(_) => unreachable!("there is no VM in unit tests"),
        }
    }

    /// All of them.
    pub(crate) fn all_blocks(&self) -> Vec<crate::check::blocks::Block> {
        match &self.backend {
            Backend::Plain(plain) => plain.heap.all(),
            Backend::Vm(_) => unreachable!("there is no VM in unit tests"),
        }
    }

    /// Says that the root object is somewhere else; only a check may follow.
    pub(crate) fn set_root_for_tests(&mut self, address: usize) {
        self.root = NonNull::without_provenance(std::num::NonZero::new(address).unwrap());
    }
}

impl<V: Brand> fmt::Debug for Space<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space<{}>({})", During::<'static, V>::NAME, self.name)
    }
}
