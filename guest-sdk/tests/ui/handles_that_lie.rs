// A brand says that its handles end with the visit, and they do not.
use spacejmp::brand::{EndWithVisit, Handles, OfOneVisit};
use spacejmp::{Brand, Storable, VBox};

struct One;

impl Brand for One {
    type Root = Option<VBox<u64, One>>;
    const NAME: &'static str = "One";
    type Handles = EndWithVisit<One>;
}

struct Two;

impl Brand for Two {
    type Root = Option<VBox<u64, Two>>;
    const NAME: &'static str = "Two";
    type Handles = EndWithVisit<Two>;
}

impl OfOneVisit for Two {
    type Root<'v> = Option<VBox<u64, Two>>;
    type During<'v> = Two;
}

struct Mine;

impl Handles for Mine {
    type Root<'v> = Option<VBox<u64, One>>;
    type During<'v> = One;
    const ARE_KEPT: bool = false;
}

spacejmp::brand! { Kept<'v> => Option<VBox<u64, Kept<'static>>> }

#[derive(Storable)]
#[storable(vas = Other<'static>)]
struct Node {
    next: Option<VBox<Node, Other<'static>>>,
}

spacejmp::brand! { Other<'v> => Node }

fn main() {}
