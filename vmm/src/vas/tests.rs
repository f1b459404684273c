//! Attaching without a guest: what remains of a call that has failed half-way.

use abi::objects::{Lifetime, PagePolicy};
use abi::{Errno, Right, SegId};

use super::attach::AttachFlags;
use super::{VasConfig, Vases};
use crate::kernel::Kernel;
use crate::store::{Mode, Name, SegmentSpec};

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
