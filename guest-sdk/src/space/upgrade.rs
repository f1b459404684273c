//! A root object of an earlier type: made anew when the space is opened, in one visit, or left as it is with
//! an error that says why.

use std::ptr::NonNull;

use super::visit::{OnOwnerDeath, visit};
use super::vm::VmSpace;
use super::{Space, by_result, check_home, options, refusal};
use crate::alloc::AllocError;
use crate::boxed;
use crate::brand::{Brand, During};
use crate::error::{Error, Result};
use crate::layout::{Fingerprint, TypeLayout};
use crate::location::wait::{LockMode, Wait};
use crate::objects::vas::Vas;
use crate::storable::Storable;
use crate::sys::SegRoot;
use crate::token::{At, Write};
use crate::upgrade::{EarlierForm, StoredRoot};

/// The variable of the environment that forbids upgrades, with the value `no`.
const SWITCH: &str = "SPACEJMP_UPGRADE";

/// What opening a space would do: [`Space::preview`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Opening {
    /// The root object is what this program expects.
    AsIs,
    /// It is of an earlier version of the type, and would be made anew.
    Upgrade {
        /// The type's name.
        name: String,
        /// The version that is there.
        from: u32,
        /// The version that would be.
        to: u32,
        /// What would be in place of the fields that are there, each in a line.
        changes: Vec<String>,
    },
}

impl<V: Brand> Space<V> {
    /// What [`open`](Space::open) would do to the space `name`, without doing it.
    ///
    /// ```no_run
    /// # use spacejmp::Space;
    /// # spacejmp::brand! { Stock<'v> => u64 }
    /// println!("{:?}", Space::<Stock>::preview("stock")?);
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Space::open), but for errors of the upgrade itself.
    pub fn preview(name: &str) -> Result<Opening> {
        check_home(name)?;
        let vm = VmSpace::new(Vas::find(name)?, false)?;
        let record = vm.segment.root()?;
        if record.address == 0 {
            return Err(Error::NoRoot { space: name.to_owned() });
        }
        let layout = TypeLayout::of_root::<During<'static, V>>();
        if record.fingerprint == layout.fingerprint().0 {
            return Ok(Opening::AsIs);
        }
        let Some(form) = earlier::<During<'static, V>>(&record) else {
            return Err(options::wrong_root::<V>(&vm, &layout)?);
        };
        let (name, from, to) = versions(&layout, &form);
        let changes = TypeLayout::changes(form.layout.text(), layout.text());
        Ok(Opening::Upgrade { name, from, to, changes })
    }
}

/// What a root object of `V` was once, if the one on record is that.
fn earlier<V: Brand>(record: &SegRoot) -> Option<EarlierForm> {
    V::Root::earlier(Fingerprint(record.fingerprint))
}

fn from_earlier<V: Brand>(stored: StoredRoot<'_, V>) -> Option<Result<V::Root, AllocError>> {
    V::Root::from_earlier(stored)
}

/// The type's name, the version that is there, and the one of this program.
fn versions(layout: &TypeLayout, form: &EarlierForm) -> (String, u32, u32) {
    let (name, wanted) = TypeLayout::versioned_name_in(layout.text());
    let (_, found) = TypeLayout::versioned_name_in(form.layout.text());
    (name.to_owned(), found, wanted)
}

/// Makes the root object anew if it is of an earlier version of the brand's type; says whether it was.
pub(super) fn upgrade<V: Brand>(
    vm: &VmSpace,
    layout: &TypeLayout,
    record: &SegRoot,
) -> Result<bool> {
    let Some(form) = earlier::<During<'static, V>>(record) else { return Ok(false) };
    let space = vm.vas.name().to_owned();
    let not = |reason: &str| {
        let (name, found, wanted) = versions(layout, &form);
        let (space, reason) = (space.clone(), reason.to_owned());
        let changes = TypeLayout::changes(form.layout.text(), layout.text());
        Error::NotUpgraded { space, name, found, wanted, reason, changes }
    };
    if !vm.may_write {
        return Err(not(
            "it is opened to be read: open it to write once, or read it as what it was with `Space::at_as`",
        ));
    }
    if !vm.is_versioned {
        return Err(not(
            "it is not versioned, and a program that dies meanwhile would leave it half-changed: `spacejmp \
             seg convert` makes it versioned",
        ));
    }
    if std::env::var_os(SWITCH).is_some_and(|value| value == "no") {
        return Err(not("SPACEJMP_UPGRADE=no forbids it"));
    }
    let target = vm.target(LockMode::Exclusive)?;
    let made = |at: At<During<'static, V>, Write>| by_result(make_anew::<V>(vm, &at, layout));
    // SAFETY: the thread is at home, and `vm` outlives the visit. No handle gets out: what makes the new values
    // is called by implementations for every lifetime of the brand, as a root object must have.
    let made = unsafe {
        visit::<During<'static, V>, Write, _>(target, Wait::Forever, OnOwnerDeath::Refuse, made)
    };
    made.map_err(|refused| refusal(&space, None, refused))??;
    Ok(true)
}

/// Inside: the new root object in place of the old one, whose memory is freed.
fn make_anew<V: Brand>(
    vm: &VmSpace,
    at: &At<During<'static, V>, Write>,
    layout: &TypeLayout,
) -> Result<()> {
    let space = || vm.vas.name().to_owned();
    // Under the lock: another program may have been quicker.
    let record = vm.segment.root()?;
    if record.fingerprint == layout.fingerprint().0 {
        return Ok(());
    }
    let Some(form) = earlier::<During<'static, V>>(&record) else {
        return Err(Error::Changed { space: space() });
    };
    // SAFETY: the witness proves that the thread is inside.
    unsafe { vm.heap.ensure_known() }
        .map_err(|reason| Error::Damaged { space: space(), reason })?;
    let old = options::root_pointer(vm, &record, form.size, form.align)?;
    // SAFETY: the segment's record says that a valid value with this layout lies there. It is used once: another
    // one takes its place below, or the visit is undone.
    let stored = unsafe { StoredRoot::new(Fingerprint(record.fingerprint), old, at) };
    let value = from_earlier(stored).ok_or_else(|| Error::Changed { space: space() })??;
    let root: NonNull<()> = boxed::allocate_root(at, value)?.cast();
    let no_room = || AllocError::new::<During<'static, V>>(layout.text().len());
    // SAFETY: the value there was moved out, and the record is about to name another one.
    unsafe { boxed::free_root::<During<'static, V>>(old, form.size, form.align) };
    // SAFETY: the thread is inside, writable, and there is a heap.
    unsafe { vm.heap.set_layout_text(layout.text()) }.ok_or_else(no_room)?;
    let address = root.expose_provenance().get() as u64;
    let record = SegRoot { address, fingerprint: layout.fingerprint().0 };
    // SAFETY: there lies a valid object of this layout, in a heap.
    unsafe { vm.segment.set_root(&record) }?;
    // SAFETY: the thread is inside, writable, and there is a heap.
    unsafe { vm.heap.note_root(&record) };
    Ok(())
}
