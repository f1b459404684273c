//! Opening and making spaces in a VM.

use std::marker::PhantomData;
use std::ptr::NonNull;

use abi::Errno;

use super::visit::{OnOwnerDeath, visit};
use super::vm::VmSpace;
use super::{Backend, Space, by_result, check_home, claim, init, refusal, upgrade};
use crate::alloc::AllocError;
use crate::brand::{Brand, Claim, During, Handles, Invariant, RootDuring};
use crate::error::{Error, ObjectKind, Result};
use crate::layout::TypeLayout;
use crate::location::wait::{LockMode, Wait};
use crate::objects::failed;
use crate::objects::segment::{Segment, SegmentOptions};
use crate::objects::vas::Vas;
use crate::sys::{Durability, Lifetime, PagePolicy, Right, SegRoot};
use crate::token::{At, Read, Write};

/// How a space is made, from [`Space::options`]; opening one that exists needs none of it.
#[derive(Debug, Clone)]
#[must_use]
pub struct SpaceOptions<V> {
    segment: SegmentOptions,
    _brand: Invariant<V>,
}

impl<V: Brand> SpaceOptions<V> {
    pub(super) fn new() -> SpaceOptions<V> {
        let segment = Segment::options(2 << 20).reserve(1 << 40).lockable(true);
        // Handles that are kept could outlive what an abort takes back.
        let lifetime =
            if V::Handles::ARE_KEPT { Lifetime::Persistent } else { Lifetime::Versioned };
        SpaceOptions { segment: segment.lifetime(lifetime), _brand: PhantomData }
    }

    /// Initial size in bytes; it uses no storage until it is written to. Without it 2 MiB. Larger
    /// segments use storage in steps of 2 MiB, where the host has huge pages for files.
    pub fn size(mut self, bytes: u64) -> SpaceOptions<V> {
        self.segment.params.size_bytes = bytes;
        self
    }

    /// Bytes it may grow to, by itself, as memory is needed. Without it 1 TiB: addresses, not
    /// memory.
    pub fn reserve(mut self, bytes: u64) -> SpaceOptions<V> {
        self.segment.params.reserve_bytes = bytes;
        self
    }

    /// The address of its data, a multiple of 2 MiB. Without it: where no other segment of the
    /// store is, so that a pointer used in the wrong VAS faults, and spaces do not exclude each
    /// other ([`Error::SameAddresses`]).
    pub fn base(mut self, base: u64) -> SpaceOptions<V> {
        self.segment.params.base = base;
        self
    }

    /// Permission bits of VAS and segment, as for a file; `umask` applies. Without it `0o600`.
    pub fn mode(mut self, mode: u32) -> SpaceOptions<V> {
        self.segment.params.mode = mode;
        self
    }

    /// How long its content lives. Without it a space is versioned if the brand has a lifetime, as it must
    /// then ([`Error::KeptHandles`]), and persistent if it has none.
    pub fn lifetime(mut self, lifetime: Lifetime) -> SpaceOptions<V> {
        self.segment.params.lifetime = lifetime as u8;
        self
    }

    /// When a change of a versioned space survives a power cut; others have none (`EINVAL`).
    /// Without it a tenth of a second after the visit, and when the program ends or calls
    /// [`Space::sync`]. A killed program loses nothing that it has committed, whichever.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.segment.params.durability = durability.raw();
        self
    }

    /// Which pages map it. Without it: the largest that fit.
    pub fn pages(mut self, pages: PagePolicy) -> SpaceOptions<V> {
        self.segment.params.pages = pages as u8;
        self
    }

    /// Makes the space `name`: a VAS and a lockable segment, both of that name, with the root object
    /// that `init` gives. If `init` fails, or panics, both are deleted again, unless another program
    /// has made a root object meanwhile. If it has left memory allocated by then, a `VPtr` that it
    /// made or an owner that it gave to its caller, the brand is not used again in this process.
    ///
    /// # Errors
    /// [`Error::Call`] with `EEXIST` if there is a VAS or segment of that name; the errors of
    /// creating them; [`Error::Alloc`] if `init` returns it; [`Error::BrandTaken`];
    /// [`Error::BrandSpent`]; [`Error::AlreadyInside`]; [`Error::NotUnderSpacejmp`].
    pub fn create(
        &self,
        name: &str,
        init: impl for<'v> FnOnce(&'v At<During<'v, V>, Write>) -> Result<RootDuring<'v, V>, AllocError>,
    ) -> Result<Space<V>> {
        check_home(name)?;
        let vas = Vas::options().mode(self.segment.params.mode).create(name)?;
        let mut undo = Undo { vas: Some(vas.clone()), segment: None };
        let segment = self.segment().create(name)?;
        undo.segment = Some(segment.clone());
        vas.attach_segment(&segment, Right::Write)?;
        let space = self.with_root(vas, Existing::IsAnError, init)?;
        undo.keep();
        Ok(space)
    }

    /// Opens the space `name`, or makes it if there is none, which several programs may do at the
    /// same time: one of them calls `init`. A program that died while creating it is no obstacle.
    ///
    /// ```no_run
    /// use spacejmp::Space;
    ///
    /// spacejmp::brand! { Hits<'v> => [u64; 16] }
    ///
    /// let space = Space::<Hits>::options().open_or_create("hits", |_| Ok([0; 16]))?;
    /// space.write(|v| {
    ///     v.root_mut().0[3] += 1;
    ///     Ok::<_, spacejmp::Error>(())
    /// })?;
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`create`](SpaceOptions::create) without `EEXIST`, and as [`Space::open`].
    pub fn open_or_create(
        &self,
        name: &str,
        init: impl for<'v> FnOnce(&'v At<During<'v, V>, Write>) -> Result<RootDuring<'v, V>, AllocError>,
    ) -> Result<Space<V>> {
        check_home(name)?;
        let is_volatile = self.segment.params.lifetime == Lifetime::Volatile as u8;
        match Space::open(name) {
            Err(Error::NoRoot { .. }) => {}
            // Volatile content is freed with its last user, and the VAS stays.
            Err(Error::SegmentLost { .. }) if is_volatile => {}
            // Only if there is no such VAS: whatever else is missing must not be created again.
            Err(Error::Call {
                verb: "find", kind: ObjectKind::Vas, errno: Errno::ENOENT, ..
            }) => {}
            other => return other,
        }
        let vas = Vas::options().mode(self.segment.params.mode).open_or_create(name)?;
        if is_volatile {
            vas.forget_missing()?;
        }
        let segment = self.segment().open_or_create(name)?;
        match vas.attach_segment(&segment, Right::Write) {
            Err(err) if err.errno() != Some(Errno::EEXIST) => return Err(err),
            _ => {}
        }
        self.with_root(vas, Existing::IsWelcome, init)
    }

    fn segment(&self) -> SegmentOptions {
        let params = self.segment.params;
        self.segment.clone().reserve(params.reserve_bytes.max(params.size_bytes))
    }

    /// The space of `vas` with a root object, which is made under the lock if there is none.
    fn with_root(
        &self,
        vas: Vas,
        existing: Existing,
        init: impl for<'v> FnOnce(&'v At<During<'v, V>, Write>) -> Result<RootDuring<'v, V>, AllocError>,
    ) -> Result<Space<V>> {
        let name = vas.name().to_owned();
        let vm = VmSpace::new(vas, true)?;
        check_handles::<V>(&vm)?;
        let claim = claim::<V>(vm.vas.id().raw(), vm.segment.id().raw(), &name)?;
        let target = vm.target(LockMode::Exclusive)?;
        // A program that died before there was a root has left nothing that matters.
        // SAFETY: the thread is at home, and `vm` outlives the visit.
        let made = unsafe {
            visit::<During<'static, V>, Write, _>(
                target,
                Wait::Forever,
                OnOwnerDeath::Accept,
                |at| by_result(make::<V>(&vm, &at, &claim, init)),
            )
        };
        match made.map_err(|refused| refusal(&name, None, refused))?? {
            Some((root, record)) => {
                claim.keep();
                let backend = Backend::Vm(Box::new(vm.with_root(record)));
                Ok(Space { name, backend, root, _brand: PhantomData })
            }
            None if existing == Existing::IsWelcome => open(vm),
            None => Err(failed("create", ObjectKind::Vas, name)(Errno::EEXIST)),
        }
    }
}

/// What a root object that is there already means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    IsAnError,
    IsWelcome,
}

/// Inside: a heap and a root object; `None` if there is one already.
fn make<V: Brand>(
    vm: &VmSpace,
    at: &At<During<'static, V>, Write>,
    claim: &Claim,
    init: impl for<'v> FnOnce(&'v At<During<'v, V>, Write>) -> Result<RootDuring<'v, V>, AllocError>,
) -> Result<Option<(NonNull<()>, SegRoot)>> {
    if claim.is_spent() {
        return Err(Error::BrandSpent {
            brand: During::<V>::NAME,
            space: vm.vas.name().to_owned(),
        });
    }
    if vm.segment.root()?.address != 0 {
        return Ok(None);
    }
    let layout = TypeLayout::of_root::<During<'static, V>>();
    let stat = vm.segment.stat()?;
    // SAFETY: the witness proves that the thread is inside; without a root no program uses anything
    // there.
    let formatted = unsafe { vm.heap.format(stat.size, layout.text()) };
    formatted.ok_or_else(|| AllocError::new::<During<'static, V>>(layout.text().len()))?;
    init::watched::<V, _, Error>(claim, || {
        let root = init::root::<V>(at, init)?;
        if stat.inconsistent {
            // SAFETY: the heap is fresh, and the root object is valid.
            unsafe { vm.segment.recover() }?;
        }
        let address = root.expose_provenance().get() as u64;
        let record = SegRoot { address, fingerprint: layout.fingerprint().0 };
        // Last: a program that finds a root finds it complete. SAFETY: there lies a valid object of
        // this layout, in a heap that `format` has made.
        unsafe { vm.segment.set_root(&record) }?;
        // SAFETY: the witness proves that the thread is inside, and `format` has made a heap.
        unsafe { vm.heap.note_root(&record) };
        Ok(Some((root, record)))
    })
}

/// Whether handles live no longer than what they point to is sure to stay.
fn check_handles<V: Brand>(vm: &VmSpace) -> Result<()> {
    if vm.is_versioned && V::Handles::ARE_KEPT {
        let (brand, space) = (During::<'static, V>::NAME, vm.vas.name().to_owned());
        return Err(Error::KeptHandles { brand, space });
    }
    Ok(())
}

/// The space of `vm`, if its root object is a `V::Root`. The brand stands for its VAS from now on.
pub(super) fn open<V: Brand>(vm: VmSpace) -> Result<Space<V>> {
    let (vid, sid) = (vm.vas.id().raw(), vm.segment.id().raw());
    let space = open_unclaimed(vm)?;
    claim::<V>(vid, sid, &space.name)?.keep();
    Ok(space)
}

/// The same, whatever the brand stands for. See [`Space::at`] for when that is sound.
pub(super) fn open_unclaimed<V: Brand>(vm: VmSpace) -> Result<Space<V>> {
    check_handles::<V>(&vm)?;
    let layout = TypeLayout::of_root::<During<'static, V>>();
    let mut record = vm.segment.root()?;
    if record.address == 0 {
        return Err(Error::NoRoot { space: vm.vas.name().to_owned() });
    }
    if record.fingerprint != layout.fingerprint().0 {
        if upgrade::upgrade::<V>(&vm, &layout, &record)? {
            record = vm.segment.root()?;
        }
        if record.fingerprint != layout.fingerprint().0 {
            return Err(wrong_root::<V>(&vm, &layout)?);
        }
    }
    type Root<V> = RootDuring<'static, V>;
    let root = root_pointer(&vm, &record, size_of::<Root<V>>(), align_of::<Root<V>>())?;
    Ok(space_of(vm, root, record))
}

/// A space that was looked at: `root` is its root object, whoever knows its type.
pub(super) fn space_of<V: Brand>(vm: VmSpace, root: NonNull<()>, record: SegRoot) -> Space<V> {
    let name = vm.vas.name().to_owned();
    let backend = Backend::Vm(Box::new(vm.with_root(record)));
    Space { name, backend, root, _brand: PhantomData }
}

/// Where the record says that the root object lies, if that can be.
pub(super) fn root_pointer(
    vm: &VmSpace,
    record: &SegRoot,
    size: usize,
    align: usize,
) -> Result<NonNull<()>> {
    let inside = vm.holds(record.address, size as u64)?;
    let pointer = std::ptr::with_exposed_provenance_mut::<()>(record.address as usize);
    match NonNull::new(pointer) {
        Some(root) if inside && record.address.is_multiple_of(align as u64) => Ok(root),
        _ => {
            let reason = format!("its root object is at {:#x}", record.address);
            Err(Error::Damaged { space: vm.vas.name().to_owned(), reason })
        }
    }
}

/// The error that says how the root object's type differs.
pub(super) fn wrong_root<V: Brand>(vm: &VmSpace, layout: &TypeLayout) -> Result<Error> {
    let space = vm.vas.name().to_owned();
    let target = vm.target(LockMode::Shared)?;
    let read = |_: At<During<'static, V>, Read>| {
        // SAFETY: the thread is inside.
        let checked = unsafe { vm.heap.check() };
        // SAFETY: the thread is inside, and there is a heap.
        by_result(checked.map(|()| unsafe { vm.heap.layout_text() }))
    };
    // SAFETY: the thread is at home, and `vm` outlives the visit.
    let text = unsafe { visit(target, Wait::Forever, OnOwnerDeath::Refuse, read) };
    let text = match text.map_err(|refused| refusal(&space, None, refused))? {
        Ok(text) => text,
        Err(reason) => return Ok(Error::Damaged { space, reason }),
    };
    let (expected_line, found_line) = TypeLayout::first_difference(layout.text(), &text);
    let (name, found) = TypeLayout::versioned_name_in(&text);
    let (own_name, wanted) = TypeLayout::versioned_name_in(layout.text());
    if name == own_name && found != wanted {
        let changes = match found > wanted {
            true => TypeLayout::changes(layout.text(), &text),
            false => TypeLayout::changes(&text, layout.text()),
        };
        let name = name.to_owned();
        return Ok(Error::WrongVersion { space, name, wanted, found, changes });
    }
    Ok(Error::WrongRoot {
        space,
        wanted: TypeLayout::name_in(layout.text()).to_owned(),
        found: TypeLayout::name_in(&text).to_owned(),
        expected_line,
        found_line,
    })
}

/// Deletes what was made, unless it is kept.
struct Undo {
    vas: Option<Vas>,
    segment: Option<Segment>,
}

impl Undo {
    fn keep(mut self) {
        (self.vas, self.segment) = (None, None);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // Another program may have completed it by `open_or_create`: it then belongs to that one.
        let rootless = |segment: &Segment| segment.root().is_ok_and(|root| root.address == 0);
        if !self.segment.as_ref().is_none_or(rootless) {
            return;
        }
        // A program that has it open now keeps it (`EBUSY`); the first error is what counts.
        if let Some(vas) = self.vas.take() {
            let _ = vas.delete();
        }
        if let Some(segment) = self.segment.take() {
            let _ = segment.delete();
        }
    }
}
