//! A space checked from inside.

use super::visit::{Ending, OnOwnerDeath};
use super::{Backend, OldSpace, Space, check_home};
use crate::brand::{Brand, During};
use crate::check::blocks::{PlainBlocks, SegmentBlocks};
use crate::check::{CheckReport, check_from};
use crate::error::Result;
use crate::location::wait::Wait;
use crate::storable::Storable;
use crate::token::{At, Read};
use crate::upgrade::RootType;

impl<V: Brand> Space<V> {
    /// Checks that all that is stored is what the types say: reads, in one visit, whatever is reached from the root object, and
    /// reports what is wrong, with the way to it.
    ///
    /// It looks at blocks, which have one owner, are large enough and in use; at lengths and numbers; at text, enums and whatever
    /// else not all bytes are; at the order and hashes of keys. It needs no trust in any of it, and ends whatever it finds. Blocks that
    /// nobody reaches are counted: they are no damage.
    ///
    /// A space is never half changed ([`Space`]), so there is nothing to be found in the ordinary course of things. This is for
    /// a second opinion: after a disk has had errors, a backup was restored, a `repair` of [`recover`](Space::recover) was at work, or a
    /// program had a defect that may have written into the space. What it takes is in proportion to what is stored: all of that is read, once or twice.
    ///
    /// ```
    /// use spacejmp::{Space, Storable, VHashMap, VString, VVec};
    ///
    /// #[derive(Storable)]
    /// #[storable(vas = Team<'v>)]
    /// struct Member<'v> {
    ///     tags: VVec<VString<Team<'v>>, Team<'v>>,
    /// }
    ///
    /// spacejmp::brand! { Team<'v> => VHashMap<VString<Team<'v>>, Member<'v>, Team<'v>> }
    ///
    /// let team = Space::<Team>::in_memory(1 << 20, |_| Ok(VHashMap::new()))?;
    /// team.write(|v| {
    ///     let (members, at) = v.root_mut();
    ///     let tags = VVec::try_collect(at, ["new", "north"].map(|tag| VString::new(at, tag)))?;
    ///     members.at_mut(at).insert(VString::new(at, "ann")?, Member { tags })?;
    ///     Ok::<_, spacejmp::Error>(())
    /// })?;
    /// let report = team.check()?;
    /// assert!(report.is_clean(), "{report}");
    /// assert_eq!((report.counts["VString"], report.counts["VVec"]), (3, 1));
    /// assert_eq!(report.leaks.map(|leaks| leaks.blocks), Some(0));
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`read`](Space::read): a space that is marked as inconsistent is not checked.
    pub fn check(&self) -> Result<CheckReport> {
        self.check_by(Backend::check_root_object::<During<'static, V>>)
    }

    /// The same by a function that knows the type of the root object.
    fn check_by(&self, check: Check<During<'static, V>>) -> Result<CheckReport> {
        check_home(&self.name)?;
        let inside = |at: At<During<'static, V>, Read>| {
            let root = self.root.addr().get();
            // SAFETY: the thread is inside until this returns; who is inside to read keeps writers out, or sees a version
            // that none changes.
            (unsafe { check(&self.backend, &at, root) }, Ending::Keep)
        };
        // SAFETY: the thread is at home and has no token. A report has no handles.
        unsafe { self.enter(Wait::Forever, None, OnOwnerDeath::Refuse, inside) }?
    }
}

impl<V: Brand, T: RootType> OldSpace<V, T>
where
    for<'v> T::During<'v>: Storable<During<'v, V>>,
{
    /// Checks the old version, as [`Space::check`].
    ///
    /// # Errors
    /// As [`Space::check`].
    pub fn check(&self) -> Result<CheckReport> {
        self.space.check_by(Backend::check::<During<'static, V>, T::During<'static>>)
    }
}

/// Checks what is reached from a root object; whose conditions are those of [`Backend::check`].
type Check<V> = unsafe fn(&Backend, &At<V, Read>, usize) -> Result<CheckReport>;

impl Backend {
    /// Checks what is reached from the brand's root object.
    ///
    /// # Safety
    /// As `check`.
    unsafe fn check_root_object<V: Brand>(
        &self,
        at: &At<V, Read>,
        root: usize,
    ) -> Result<CheckReport> {
        // SAFETY: the caller's promise.
        unsafe { self.check::<V, V::Root>(at, root) }
    }

    /// Checks what is reached from `root`.
    ///
    /// # Safety
    /// The thread is inside the space, and nobody writes it meanwhile.
    unsafe fn check<V: Brand, R: Storable<V>>(
        &self,
        at: &At<V, Read>,
        root: usize,
    ) -> Result<CheckReport> {
        match self {
            Backend::Plain(plain) => {
                // SAFETY: the caller's promise; blocks are only freed by who is inside to write.
                let mut blocks = unsafe { PlainBlocks::new(plain.heap.all().into_iter()) };
                Ok(check_from::<V, R>(at, &mut blocks, None, root))
            }
            Backend::Vm(vm) => {
                let size = vm.segment.stat()?.size;
                // SAFETY: the caller's promise; the segment's bytes are mapped, at a multiple of 2 MiB.
                let found = unsafe { SegmentBlocks::new(vm.heap.address(), size) };
                Ok(match found {
                    Some((mut blocks, heap)) => {
                        check_from::<V, R>(at, &mut blocks, Some(&heap), root)
                    }
                    None => CheckReport::without_heap(),
                })
            }
        }
    }
}
