//! The mistakes that must not compile, and what the compiler says about each.
//!
//! Each file of `ui` holds mistakes of one kind; the `.stderr` beside it is the compiler's answer.
//! `TRYBUILD=overwrite cargo test -p spacejmp --test mistakes` writes them anew: read the
//! difference, it is what a user sees. Mistakes that the type checker finds and those that the
//! borrow checker finds are in different files, since the first hide the second.
//!
//! What all of them begin with is here: it compiles, and runs.

use spacejmp::{AllocError, Error, In, Space, Storable, VBox, VPtr, Write};

#[test]
fn mistakes_do_not_compile_and_the_message_says_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

#[derive(Storable)]
#[storable(vas = One)]
struct Node {
    next: Option<VBox<Node, One>>,
    number: u64,
}

spacejmp::brand! { One => Option<VBox<Node, One>>, Two => Option<VPtr<u64, Two>> }

fn push(v: &mut In<One, Write>, number: u64) -> Result<(), AllocError> {
    let (root, at) = v.root_mut();
    let mut node = VBox::new(at, Node { next: None, number })?;
    node.get_mut(at).next = root.take();
    *root = Some(node);
    Ok(())
}

#[test]
fn without_the_mistake_it_compiles_and_runs() {
    let one = Space::<One>::in_memory(1 << 20, |_| Ok(None)).expect("a space");
    let two = Space::<Two>::in_memory(1 << 20, |at| Ok(Some(VPtr::new(at, 30)?))).expect("another");
    one.write(|v| Ok::<_, Error>(push(v, 4)?)).expect("room");
    one.write(|v| Ok::<_, Error>(push(v, 5)?)).expect("room");
    let sum = one.read(|v| {
        let list = std::iter::successors(v.root().as_ref(), |node| node.get(v).next.as_ref());
        let sum: u64 = list.map(|node| node.get(v).number).sum();
        sum + v.read(&two, |w| w.root().map_or(0, |number| *number.get(w))).expect("inside")
    });
    assert_eq!(sum.expect("inside"), 39);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| one.read(|v| v.root().is_some())).join().expect("no panic")
    });
    assert!(seen.expect("inside"), "a space, unlike a token, may be shared");
}
