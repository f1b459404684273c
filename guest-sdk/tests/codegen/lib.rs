//! Pairs of functions, one through pointers of a VAS, one through plain references. What they are
//! compiled to is compared by `../codegen.rs`.

use spacejmp::{In, Read, Storable, VBox, VPtr, Write};

spacejmp::brand! { pub One => u64 }

#[derive(Storable)]
#[storable(vas = One)]
pub struct Shared {
    number: u64,
    next: Option<VPtr<Shared, One>>,
}

#[derive(Storable)]
#[storable(vas = One)]
pub struct Owned {
    number: u64,
    next: Option<VBox<Owned, One>>,
}

pub struct Plain {
    number: u64,
    next: Option<&'static Plain>,
}

/// As large as a token's reference, and as unused.
pub type Nothing = u8;

#[inline(never)]
pub fn vptr_read(pointer: VPtr<u64, One>, v: &In<One, Read>) -> u64 {
    *pointer.get(v)
}

#[inline(never)]
pub fn vbox_read(pointer: &VBox<u64, One>, v: &In<One, Read>) -> u64 {
    *pointer.get(v)
}

#[inline(never)]
pub fn plain_read(pointer: &u64, _: &Nothing) -> u64 {
    *pointer
}

#[inline(never)]
pub fn plain_box_read(pointer: &Box<u64>, _: &Nothing) -> u64 {
    **pointer
}

#[inline(never)]
pub fn vptr_write(pointer: VPtr<u64, One>, number: u64, v: &mut In<One, Write>) {
    *pointer.get_mut(v) += number;
}

#[inline(never)]
pub fn plain_write(pointer: &mut u64, number: u64, _: &mut Nothing) {
    *pointer += number;
}

#[inline(never)]
pub fn vptr_walk(first: VPtr<Shared, One>, v: &In<One, Read>) -> u64 {
    let (mut sum, mut at) = (0_u64, first.get(v));
    loop {
        sum = sum.wrapping_add(at.number);
        let Some(next) = at.next else { return sum };
        at = next.get(v);
    }
}

#[inline(never)]
pub fn vbox_walk(first: &Owned, v: &In<One, Read>) -> u64 {
    let (mut sum, mut at) = (0_u64, first);
    loop {
        sum = sum.wrapping_add(at.number);
        let Some(next) = &at.next else { return sum };
        at = next.get(v);
    }
}

#[inline(never)]
pub fn plain_walk(first: &Plain, _: &Nothing) -> u64 {
    let (mut sum, mut at) = (0_u64, first);
    loop {
        sum = sum.wrapping_add(at.number);
        let Some(next) = at.next else { return sum };
        at = next;
    }
}

/// What a pointer would be that is checked when it is followed: the comparison must see it.
#[inline(never)]
pub fn checked_read(pointer: VPtr<u64, One>, v: &In<One, Read>) -> u64 {
    if spacejmp::inside::<One>() == spacejmp::Inside::Elsewhere { 0 } else { *pointer.get(v) }
}
