//! What a commit takes for changed when a writer has most of its pages from earlier visits: all that
//! instructions and system calls have stored.

use tests::skip_without_kvm;

use crate::world::World;

#[test]
fn each_visit_becomes_the_next_version_whoever_stored_and_whatever_is_kept_from_earlier_ones() {
    skip_without_kvm!();
    for seed in ["1", "2"] {
        let world = World::new();
        assert_eq!(world.good("vas_written", &["150", seed]), "done\n");
    }
}
