//! Checks of spaces over plain memory: what is sound is clean whatever happened to it, each kind of damage is found and named, and
//! whatever is found clean can be read.

mod damage;
mod flips;
mod model;
mod world;

use crate::check::CheckReport;
use crate::{Error, Space, VBox, VRc, VString, brand};

/// Whether a report says this of exactly this path.
#[track_caller]
fn says(report: &CheckReport, path: &str, problem: &str) {
    let found = report
        .findings
        .iter()
        .any(|finding| finding.path == path && finding.problem.to_string().contains(problem));
    assert!(found, "not \"{path}: {problem}\":\n{report}");
}

brand! { Owners<'v> => [Option<VBox<VRc<VString<Owners<'v>>, Owners<'v>>, Owners<'v>>>; 3] }

/// A few elements of an array have one frame: other owners are met before the value is looked at.
#[test]
fn owners_of_one_value_that_are_met_before_it_is_looked_at_own_no_cycle() {
    brand! { Beside<'v> => [VRc<VString<Beside<'v>>, Beside<'v>>; 3] }
    let space = Space::<Beside<'_>>::in_memory(1 << 20, |at| {
        let one = VRc::new(at, VString::new(at, "one")?)?;
        Ok([one.another(at), one.another(at), one])
    })
    .unwrap();
    let report = space.check().unwrap();
    assert!(report.is_clean() && report.lost_owners == 0, "{report}");
    let space = Space::<Owners<'_>>::in_memory(1 << 20, |_| Ok([None, None, None])).unwrap();
    space
        .write(|v| {
            let (owners, at) = v.root_mut();
            let one = VRc::new(at, VString::new(at, "one")?)?;
            owners[0] = Some(VBox::new(at, one.another(at))?);
            owners[2] = Some(VBox::new(at, one)?);
            Ok::<_, Error>(())
        })
        .unwrap();
    let report = space.check().unwrap();
    assert!(report.is_clean() && report.lost_owners == 0, "{report}");
}
