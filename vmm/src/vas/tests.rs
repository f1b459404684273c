//! Attaching without a guest: what remains of a call that has failed half-way.

use std::sync::Arc;
use std::time::Duration;

use abi::objects::{Lifetime, PagePolicy};
use abi::{Errno, Right, SegId};

use super::attach::AttachFlags;
use super::{VasConfig, Vases};
use crate::kernel::Kernel;
use crate::store::{Mode, Name, SegmentSpec, Store, TagName};
use crate::vas::granted::Granted;
use crate::vas::granted::charge::StoreCharge;
use crate::vas::kept;
use crate::vm::MemoryLedger;

/// Enough for everything created here.
const PLENTY: u64 = 1 << 30;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn segment(vases: &Vases, text: &str, base: u64) -> SegId {
    let spec = SegmentSpec {
        base: Some(base),
        size_bytes: 4096,
        reserve_bytes: 2 << 20,
        mode: Mode::PRIVATE,
        lifetime: Lifetime::Persistent,
        durability: None,
        pages: PagePolicy::Largest,
        lockable: false,
    };
    vases.granted().unwrap().create_segment(&name(text), &spec).unwrap()
}

#[test]
fn a_segment_that_could_not_be_linked_for_want_of_memory_can_be_attached_later() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = Kernel::load().unwrap();
    let config = VasConfig { store: Some(dir.path().join("store")), ..VasConfig::default() };
    let vases = Vases::new(&kernel, config);
    let ledger = kernel.machine().mem.ledger();
    ledger.begin(PLENTY);
    let vid = vases.granted().unwrap().create_vas(&name("vas"), Mode::PRIVATE).unwrap();
    // The first is linked in place, alone in its 512 GiB; the second shares them and needs a new root.
    let base = 32 << 39;
    let sids = [0, 2 << 20].map(|at| segment(&vases, &format!("s{at}"), base + at));
    let vh = u64::from(vases.attach(vid, AttachFlags::new(0).unwrap()).unwrap());
    for (count, sid) in sids.into_iter().enumerate() {
        let before = vases.counts();
        ledger.begin(1);
        for attempt in 0..2 {
            let refused = vases.attach_local(vh, sid, Right::Write).unwrap_err();
            assert_eq!(refused.errno(), Errno::ENOMEM, "segment {count}, attempt {attempt}");
            assert_eq!(vases.attached(vh as u32).len(), count, "attempt {attempt}");
        }
        ledger.begin(PLENTY);
        assert_eq!(vases.counts().3, before.3, "no frame is lost");
        vases.attach_local(vh, sid, Right::Write).unwrap();
        assert_eq!(vases.attached(vh as u32).len(), count + 1);
    }
    for sid in sids {
        vases.detach_local(vh, sid).unwrap();
    }
    assert_eq!(vases.attached(vh as u32), []);
}

#[test]
fn versions_that_a_private_store_keeps_are_charged_until_they_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = Kernel::load().unwrap();
    let config = VasConfig { store: Some(dir.path().join("store")), ..VasConfig::default() };
    let vases = Vases::new(&kernel, config);
    let ledger = Arc::new(MemoryLedger::default());
    // Enough for the segment and two versions of it.
    ledger.begin(4 << 20);
    let charge = Arc::new(StoreCharge::new(Some(ledger.clone())));
    let granted = Granted { charge, ..vases.granted().unwrap() };
    let (size_bytes, lifetime) = (1 << 20, Lifetime::Versioned);
    let spec = SegmentSpec { lifetime, ..SegmentSpec::new(size_bytes) };
    let sid = granted.create_segment(&name("x"), &spec).unwrap();
    let vid = granted.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    granted.attach_segment(vid, sid, Right::Write).unwrap();
    let before = ledger.total();
    let find = |granted: &Granted, text: &str| {
        let keep =
            |store: &Store, vid, number| kept::keep_number(store, vid, number, None, &|| false);
        granted.find_vas(&name(text), keep)
    };
    let tag = TagName::new(b"t").unwrap();
    let tagged = |store: &Store| kept::tag_vas(store, vid, None, &tag, None, &|| false);
    let kept = granted.tag_vas(vid, tagged).unwrap();
    let one = ledger.total() - before;
    assert!(one > size_bytes, "{one} bytes");
    assert_eq!(find(&granted, "v@7").unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(ledger.total(), before + one);
    // What is there already is found.
    let by_number = find(&granted, "v@0").unwrap();
    assert_eq!(ledger.total(), before + 2 * one);
    assert_eq!(find(&granted, "v@0").unwrap(), by_number);
    let other = TagName::new(b"u").unwrap();
    let refused =
        granted.tag_vas(vid, |store| kept::tag_vas(store, vid, None, &other, None, &|| false));
    assert_eq!(refused.unwrap_err().errno(), Errno::ENOMEM);
    // As when another one is asked for after a while.
    let removed = granted.store.remove_passing(Duration::ZERO).unwrap();
    assert_eq!((&*removed.vases, removed.segments.len()), (&[by_number][..], 1));
    granted.gone(&removed);
    assert_eq!(ledger.total(), before + one);
    granted.vas(kept).unwrap();
}
