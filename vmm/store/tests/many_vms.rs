//! A thousand VMs that read one versioned segment at once, as far as the store knows of them: their
//! leases. A program of its own, since it limits the descriptors of its process.

use abi::objects::{Lifetime, Right};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spacejmp_store::{Lease, LeaseInfo, Name, OtherWriters, SegmentSpec, Store};

const VMS: usize = 1000;
/// Descriptors that may be opened beside those of the leases themselves.
const SPARE: u64 = 40;

fn limit_to(descriptors: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let allowed = maximum.is_none_or(|maximum| descriptors <= maximum);
    assert!(
        allowed,
        "this host permits {maximum:?} descriptors, of which {descriptors} are needed"
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(descriptors), maximum }).unwrap();
}

fn lease(store: &Store) -> Lease {
    Lease::create(store, &LeaseInfo { program: "reader".into(), pid: 1 }).unwrap()
}

#[test]
fn a_thousand_vms_read_one_segment_and_another_comes_with_few_descriptors_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&folder.path().join("store")).unwrap();
    let spec = SegmentSpec { lifetime: Lifetime::Versioned, ..SegmentSpec::new(1 << 20) };
    let sid = store.create_segment(&Name::new(b"x").unwrap(), &spec).unwrap();
    // Two of each lease; their VMs have them in processes of their own.
    limit_to(2 * VMS as u64 + SPARE);
    let join = |lease: &Lease, right| {
        let mut file = store.open_to_attach(sid).unwrap();
        let mut found = None;
        let joined = store.join_versioned(&mut file, lease, 0, right, &mut |_, others| {
            found = Some(others);
            Ok(())
        });
        joined.unwrap();
        found
    };
    // Each counts those before it only where it writes; a few do it the long way.
    let leases: Vec<Lease> = (0..VMS).map(|_| lease(&store)).collect();
    for (number, lease) in leases.iter().enumerate() {
        if number % 100 == 0 {
            assert_eq!(join(lease, Right::Read), Some(OtherWriters::None));
        } else {
            lease.set_segment(0, Some((sid, Right::Read))).unwrap();
        }
    }
    let readers = store.leases().unwrap();
    assert_eq!(readers.len(), VMS);
    assert!(readers.iter().all(|lease| lease.segments == [(sid, Right::Read)]));
    // A writer and one more reader beside them.
    let (writer, last) = (lease(&store), lease(&store));
    assert_eq!(join(&writer, Right::Write), Some(OtherWriters::None));
    assert_eq!(join(&last, Right::Read), Some(OtherWriters::Live));
    assert_eq!(store.segment(sid).unwrap().attachers.len(), VMS + 2);
    assert!(store.others_attached(&store.open_segment(sid).unwrap(), writer.id()).unwrap());
}
