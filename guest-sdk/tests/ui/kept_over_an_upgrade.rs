// What is made or found while a type is upgraded, or in an old version, is not kept either.
use std::cell::RefCell;

use spacejmp::{AllocError, At, Space, Storable, VBox, VPtr, Write};

mod v1 {
    #[derive(spacejmp::Storable)]
    #[storable(vas = super::One<'v>)]
    pub struct Root<'v>(pub Option<spacejmp::VBox<u64, super::One<'v>>>);
}

#[derive(Storable)]
#[storable(vas = One<'v>, version = 2, from = v1::Root<'v>, with = upgrade)]
struct Root<'v>(Option<VBox<u64, One<'v>>>);

spacejmp::brand! { One<'v> => Root<'v> }

#[derive(Storable)]
#[storable(vas = One<'v>)]
struct Shared<'v>(Option<VPtr<u64, One<'v>>>);

thread_local! {
    static OWNER: RefCell<Option<VBox<u64, One<'static>>>> = const { RefCell::new(None) };
}

fn upgrade<'v>(old: v1::Root<'v>, at: &At<One<'v>, Write>) -> Result<Root<'v>, AllocError> {
    OWNER.with_borrow_mut(|kept| *kept = old.0);
    Ok(Root(Some(VBox::new(at, 7)?)))
}

fn reference_into_an_old_version(one: &Space<One<'_>>) {
    let old = one.at_as::<v1::Root>("monday").unwrap();
    let kept = old.read(|v| v.root()).unwrap();
    drop(kept);
}

fn pointer_into_an_old_version(one: &Space<One<'_>>) {
    let mut kept = None;
    one.at_as::<Shared>("monday").unwrap().read(|v| kept = v.root().0).unwrap();
    drop(kept);
}

fn pointer_into_another_version(one: &Space<One<'_>>, pointer: VPtr<u64, One<'_>>) -> u64 {
    one.at_as::<Shared>("monday").unwrap().read(|v| *v.follow(pointer)).unwrap()
}

fn main() {}
