//! Values that several programs use at the same time: atomics and what is set once, in a segment without a lock.
//!
//! - here: [`Shared`], making and opening one, and being where it is
//! - `concurrent`: which types can be used so; `once`: [`VOnce`], over `claims`
//! - `head`: how programs know that they mean the same type
//!
//! A [`Space`](crate::Space) is for all else. There whoever writes is alone, and readers see a version in which nothing changes;
//! a shared value changes while it is looked at, has no heap, and nothing of it is committed or taken back.
//!
//! The segment is volatile. A persistent one may have any of its pages as they were earlier after a power cut, so that a
//! mark that a value is there could be on the disk without the value.

mod claims;
mod concurrent;
mod head;
mod once;

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use abi::Errno;

use crate::brand::Kept;
use crate::error::{Error, Result};
use crate::layout::TypeLayout;
use crate::location::Location;
use crate::location::occupancy::{Occupancy, SegmentRange};
use crate::location::wait::Wait;
use crate::objects::attached::{AttachOptions, Attached};
use crate::objects::segment::{Segment, SegmentInfo};
use crate::objects::vas::Vas;
use crate::space::visit::{Ending, OnOwnerDeath, Target, visit};
use crate::sys::{Lifetime, Right};
use crate::thread_state::{self, Scope, ThreadState};
use crate::token::{At, In, Mode, Read};
use crate::{Brand, type_id};
use head::{HEAD_BYTES, Head, Other};

pub use concurrent::{Concurrent, Layouts};
pub use once::{NotSet, VOnce};

/// Stands for no space: what may lie in every address space and has no address in it may be in a shared value. Nobody
/// outside has a token of it, so nothing points to where it is.
#[derive(Debug)]
pub enum Inert {}

impl Brand for Inert {
    type Root = ();
    const NAME: &'static str = NAME;
    type Handles = Kept<Self>;
}

/// How often a volatile segment that is freed by its last user while it is opened is made anew.
const ATTEMPTS: usize = 100;

/// A value of type `T` that several programs use at the same time, by the name of an address space.
///
/// It is there as long as any program has it open, and begins as zeros: counters at 0, flags unset, no value in a
/// [`VOnce`]. What [`visit`](Shared::visit) is given is a plain `&T`; who else is there at the same time is for the atomics
/// in it. Nothing is locked, so nobody waits, and a program that is killed leaves what it has stored by then.
///
/// ```no_run
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use spacejmp::Shared;
///
/// let served = Shared::<[AtomicU64; 8]>::open_or_create("served")?;
/// served.visit(|counts| counts[3].fetch_add(1, Ordering::Relaxed))?;
/// # Ok::<_, spacejmp::Error>(())
/// ```
///
/// It is for counters, flags and what is made once. What several values say together, what owns memory, and what is to stay
/// belongs in a [`Space`](crate::Space).
///
/// A reference into it ends with the visit. It may be given to a scoped thread, but is of no use there: that thread is
/// elsewhere, and the address faults. Each thread visits on its own.
pub struct Shared<T: Concurrent> {
    name: String,
    backend: Backend<T>,
}

#[derive(Debug)]
enum Backend<T> {
    /// Memory of this process.
    Plain(NonNull<T>),
    Vm(Box<Instance>, PhantomData<T>),
}

/// The VAS attached.
#[derive(Debug)]
struct Instance {
    attached: Attached,
    segment: Segment,
    occupancy: Arc<Occupancy>,
    /// Where the segment begins.
    base: NonNull<u8>,
}

// SAFETY: it is a reference to a `T` that is `Sync`, and handles.
unsafe impl<T: Concurrent> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Concurrent> Sync for Shared<T> {}

impl<T: Concurrent> Shared<T> {
    /// Behind the head, where any alignment begins.
    const OFFSET: usize = {
        assert!(align_of::<T>() <= HEAD_BYTES, "the type's alignment is larger than a page");
        HEAD_BYTES
    };
    const BYTES: usize = Self::OFFSET + size_of::<T>();

    /// A value in plain memory of this process, that works without a VM and is gone when it is dropped: for tests.
    #[must_use]
    pub fn in_memory() -> Shared<T> {
        // SAFETY: zeros are a `T`, as `Concurrent` promises.
        let value = unsafe { Box::<T>::new_zeroed().assume_init() };
        let backend = Backend::Plain(NonNull::from(Box::leak(value)));
        Shared { name: "memory".to_owned(), backend }
    }

    /// Opens the value `name`, which is full of zeros if no other program has it open: a VAS and a volatile segment
    /// without a lock, both of that name, which only their owner may use.
    ///
    /// # Errors
    /// - [`Error::WrongRoot`]: it is of another type, or of this one in an incompatible build.
    /// - [`Error::NotShared`]: the VAS or the segment of that name is something else.
    /// - [`Error::Call`]: the errors of making and attaching both: `EACCES` if they may not be written.
    /// - [`Error::AlreadyInside`], [`Error::NotUnderSpacejmp`].
    pub fn open_or_create(name: &str) -> Result<Shared<T>> {
        Shared::open_or_create_as(name, 0o600)
    }

    /// The same with permission bits for VAS and segment, as for a file; `umask` applies.
    ///
    /// # Errors
    /// As [`open_or_create`](Shared::open_or_create).
    pub fn open_or_create_as(name: &str, mode: u32) -> Result<Shared<T>> {
        check_home(name)?;
        let options = Segment::options(Self::BYTES as u64).mode(mode).lockable(false);
        let options = options.lifetime(Lifetime::Volatile);
        until_there(|| {
            let vas = Vas::options().mode(mode).open_or_create(name)?;
            vas.forget_missing()?;
            let segment = options.open_or_create(name)?;
            match vas.attach_segment(&segment, Right::Write) {
                Err(err) if err.errno() != Some(Errno::EEXIST) => return Err(err),
                _ => {}
            }
            Shared::new(vas)
        })
    }

    /// Opens the value `name`, which another program has open.
    ///
    /// # Errors
    /// As [`open_or_create`](Shared::open_or_create); [`Error::SegmentLost`] or [`Error::Call`] with `ENOENT` if no program
    /// has it.
    pub fn open(name: &str) -> Result<Shared<T>> {
        check_home(name)?;
        Shared::new(Vas::find(name)?)
    }

    fn new(vas: Vas) -> Result<Shared<T>> {
        let name = vas.name().to_owned();
        // First, so that the segment stays.
        let attached = vas.attach(&AttachOptions::new().pinned())?;
        let (segments, missing) = vas.segment_infos()?;
        let ranges = segments.iter().map(|(info, _)| SegmentRange {
            sid: info.id.raw(),
            addresses: info.base..info.base.saturating_add(info.reserve),
        });
        let occupancy = Occupancy::new(ranges.collect());
        let of_name = segments.into_iter().find(|(info, _)| info.name == name);
        let Some((info, right)) = of_name else {
            return Err(match missing.first() {
                Some(&sid) => Error::SegmentLost { space: name, sid },
                None => Error::NoRoot { space: name },
            });
        };
        let other =
            |reason: &str| Error::NotShared { space: name.clone(), reason: reason.to_owned() };
        let base = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(info.base as usize));
        let base = match base {
            Some(base) if info.lifetime == Some(Lifetime::Volatile) && !info.lockable => base,
            _ => {
                return Err(other(
                    "its segment is not volatile, or has a lock, as that of a `Space`",
                ));
            }
        };
        if right != Right::Write {
            return Err(other("its segment is attached read-only there"));
        }
        if info.size < Self::BYTES as u64 {
            return Err(other("its segment is smaller than the type"));
        }
        let segment = Segment::from_info(SegmentInfo { name: name.clone(), ..info });
        let instance = Instance { attached, segment, occupancy, base };
        let layout = TypeLayout::written(|writer| T::layout(&mut Layouts(writer)));
        let agreed = instance.enter(&name, |_| {
            // SAFETY: the thread is inside, where the segment is, writable; it is at least as large, and zeros are a
            // head, as is what other programs have made of it by atomics.
            let head = unsafe { instance.base.cast::<Head>().as_ref() };
            head.agree(&layout, instance.segment.id())
        })?;
        match agreed {
            Ok(()) => Ok(Shared { name, backend: Backend::Vm(Box::new(instance), PhantomData) }),
            Err(Other::Type(found)) => {
                let (expected_line, found_line) =
                    TypeLayout::first_difference(layout.text(), &found);
                Err(Error::WrongRoot {
                    space: name,
                    wanted: TypeLayout::name_in(layout.text()).to_owned(),
                    found: TypeLayout::name_in(&found).to_owned(),
                    expected_line,
                    found_line,
                })
            }
            Err(Other::Copy) => Err(other(
                "it is the copy of another one, which may have been made in the middle of a change",
            )),
            Err(Other::Foreign) => Err(other("another program has put something else there")),
        }
    }

    /// The value's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Goes to where the value is, calls `f` with it, and comes back, however `f` ends. Others may be there at the same time.
    ///
    /// # Errors
    /// [`Error::AlreadyInside`], [`Error::Changed`], [`Error::SameAddresses`]; [`Error::Call`] with the errors of
    /// [`vas_switch`](crate::sys::vas_switch). `f` has not been called then.
    pub fn visit<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R> {
        check_home(&self.name)?;
        // SAFETY: the thread is at home and has no token.
        unsafe { self.go_in(f) }
    }

    /// Visits it from wherever the thread is.
    ///
    /// # Safety
    /// Whatever token the thread has is borrowed mutably until this returns.
    unsafe fn go_in<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R> {
        match &self.backend {
            Backend::Plain(value) => {
                let before = thread_state::current();
                let inside = ThreadState {
                    brand: Some(type_id::of::<Inert>()),
                    name: NAME,
                    writable: false,
                    heap: None,
                    scope: Scope::Outside,
                    ..before
                };
                let _back = Back(thread_state::set(inside));
                // SAFETY: it is freed when `self` is dropped.
                Ok(f(unsafe { value.as_ref() }))
            }
            Backend::Vm(instance, _) => {
                // SAFETY: inside the segment, which was looked at when it was opened, and is not made smaller.
                let value = unsafe { instance.base.add(Self::OFFSET) }.cast::<T>();
                let call = |_: At<Inert, Read>| {
                    // SAFETY: the thread is inside, where a `T` is, as the head says, which programs use by what
                    // `Concurrent` allows only. The reference ends with the call, for which it may have any lifetime.
                    f(unsafe { value.as_ref() })
                };
                // SAFETY: the caller's promise.
                unsafe { instance.enter_from_anywhere(&self.name, call) }
            }
        }
    }
}

/// What a thread that visits one is in, in messages.
const NAME: &str = "a shared value";

impl Instance {
    fn enter<R>(&self, name: &str, f: impl FnOnce(At<Inert, Read>) -> R) -> Result<R> {
        check_home(name)?;
        // SAFETY: the thread is at home.
        unsafe { self.enter_from_anywhere(name, f) }
    }

    /// # Safety
    /// Whatever token the thread has is borrowed mutably until this returns.
    unsafe fn enter_from_anywhere<R>(
        &self,
        name: &str,
        f: impl FnOnce(At<Inert, Read>) -> R,
    ) -> Result<R> {
        // What is allocated on the way, and the error, belong to the process.
        let _paused = thread_state::with_scope(Scope::Outside);
        let occupancy = Some(NonNull::from(&*self.occupancy));
        let location = Location { vh: self.attached.handle(), plain: None, occupancy };
        let target =
            Target { location, heap: None, sid: Some(self.segment.id()), is_versioned: false };
        let call = |at| (f(at), Ending::Keep);
        // SAFETY: the caller's promise; there is no heap, and the instance outlives the visit.
        let visited =
            unsafe { visit::<Inert, Read, _>(target, Wait::Forever, OnOwnerDeath::Refuse, call) };
        visited.map_err(|refused| crate::space::refusal(name, None, refused))
    }
}

impl<T: Concurrent> Drop for Shared<T> {
    fn drop(&mut self) {
        if let Backend::Plain(value) = self.backend {
            // SAFETY: it came from a box, and is borrowed for no longer than visits last. A `T` is not to be dropped,
            // but may be.
            drop(unsafe { Box::from_raw(value.as_ptr()) });
        }
    }
}

impl<T: Concurrent> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({})", self.name)
    }
}

/// From inside a space. What is suspended meanwhile, and what is not, is as for [a visit to another space](In::read).
impl<V: Brand, M: Mode> In<V, M> {
    /// Goes to a shared value.
    ///
    /// # Errors
    /// As [`Shared::visit`]; the thread is inside the first space again.
    pub fn visit<T: Concurrent, R>(
        &mut self,
        shared: &Shared<T>,
        f: impl FnOnce(&T) -> R,
    ) -> Result<R> {
        // SAFETY: this token is borrowed mutably, and it is the thread's innermost one.
        unsafe { shared.go_in(f) }
    }
}

/// Puts back the state that the thread had.
struct Back(ThreadState);

impl Drop for Back {
    fn drop(&mut self) {
        thread_state::set(self.0);
    }
}

fn check_home(name: &str) -> Result<()> {
    crate::space::check_home(name)
}

/// Opens by `open`, again if the last user has freed the segment meanwhile.
fn until_there<T>(mut open: impl FnMut() -> Result<T>) -> Result<T> {
    let is_gone = |error: &Error| {
        matches!(error, Error::SegmentLost { .. } | Error::NoRoot { .. } | Error::Changed { .. })
            || matches!(error.errno(), Some(Errno::ENOENT | Errno::ESTALE | Errno::ENODATA))
    };
    for _ in 1..ATTEMPTS {
        match open() {
            Err(error) if is_gone(&error) => {}
            other => return other,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use spacejmp_derive::Concurrent;

    use super::*;
    use crate::Space;

    #[derive(Concurrent)]
    struct Statistics {
        is_open: AtomicBool,
        hits: [AtomicU64; 3],
        first: VOnce<(u8, u32), 2>,
    }

    crate::brand! { Numbers<'v> => u64 }

    #[test]
    fn it_begins_as_zeros_and_threads_count_in_it_together() {
        let shared = Shared::<Statistics>::in_memory();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        shared.visit(|it| it.hits[1].fetch_add(1, Ordering::Relaxed)).unwrap();
                    }
                });
            }
        });
        let seen = shared.visit(|it| {
            let hits = it.hits.each_ref().map(|hits| hits.load(Ordering::Relaxed));
            (it.is_open.load(Ordering::Relaxed), hits, it.first.get().copied())
        });
        assert_eq!(seen, Ok((false, [0, 4000, 0], None)));
    }

    #[test]
    fn whoever_is_there_goes_nowhere_else_and_spaces_lead_there_by_their_token() {
        let shared = Shared::<AtomicU64>::in_memory();
        let space = Space::<Numbers<'_>>::in_memory(1 << 20, |_| Ok(7)).unwrap();
        let inside = shared.visit(|_| space.read(|v| *v.root())).unwrap();
        assert!(matches!(inside, Err(Error::AlreadyInside { .. })), "{inside:?}");
        let inside = space.read(|_| shared.visit(|_| ())).unwrap();
        assert!(matches!(inside, Err(Error::AlreadyInside { .. })), "{inside:?}");
        let sum = space.read(|v| {
            let number = *v.root();
            v.visit(&shared, |it| it.fetch_add(number, Ordering::Relaxed)).map(|_| *v.root())
        });
        assert_eq!(sum, Ok(Ok(7)));
        assert_eq!(shared.visit(|it| it.load(Ordering::Relaxed)), Ok(7));
    }

    #[test]
    fn after_a_panic_the_thread_is_at_home() {
        let shared = Shared::<AtomicU64>::in_memory();
        let visit = std::panic::AssertUnwindSafe(|| shared.visit(|_| panic!("on purpose")));
        std::panic::catch_unwind(visit).expect_err("it panics");
        assert_eq!(shared.visit(|it| it.load(Ordering::Relaxed)), Ok(0));
    }

    #[test]
    fn its_layout_names_every_field() {
        let layout = TypeLayout::written(|writer| Statistics::layout(&mut Layouts(writer)));
        for line in
            ["struct Statistics (", "hits +", "array of 3 (", "VOnce of 2 slots (", "tuple ("]
        {
            assert!(layout.text().contains(line), "{line}: {}", layout.text());
        }
    }

    #[test]
    fn outside_a_vm_it_says_so() {
        let error = Shared::<AtomicU64>::open_or_create("a").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOSYS));
    }
}
