// An old version is read as a type of its own address space.
use spacejmp::{RootType, Space, VBox};

spacejmp::brand! { One<'v> => u64, Two<'v> => u64 }

struct OfTwo;

impl RootType for OfTwo {
    type During<'v> = Option<VBox<u64, Two<'v>>>;
}

struct OfEveryVisit;

impl RootType for OfEveryVisit {
    type During<'v> = Option<VBox<u64, One<'static>>>;
}

struct OfOne;

impl RootType for OfOne {
    type During<'v> = Option<VBox<u64, One<'v>>>;
}

struct NotStorable;

impl RootType for NotStorable {
    type During<'v> = &'v u64;
}

fn main() {
    let one = Space::<One>::open("one").unwrap();
    let _ = one.at_as::<OfTwo>("monday");
    let _ = one.at_as::<OfEveryVisit>("monday");
    let _ = one.at_as::<NotStorable>("monday");
    let old = one.at_as::<OfOne>("monday").unwrap();
    // There is nothing to write, and no way on from there.
    let _ = old.read(|v| v.root_mut());
    let _ = old.read(|v| v.write(&one, |_| Ok::<_, spacejmp::Error>(())));
}
