// A reference is kept across a switch; two ways to write one value at a time.
use spacejmp::{In, Read, Space, VPtr, Write};

spacejmp::brand! { One => u64, Two => u64 }

fn read(v: &mut In<One, Read>, two: &Space<Two>) -> u64 {
    let root = v.root();
    v.read(two, |_| ()).unwrap();
    *root
}

fn write(v: &mut In<One, Write>, two: &Space<Two>) {
    let (root, _) = v.root_mut();
    v.read(two, |_| ()).unwrap();
    *root = 1;
}

fn used_in_the_other(v: &mut In<One, Read>, two: &Space<Two>, number: VPtr<u64, One>) -> u64 {
    v.read(two, |w| *w.root() + *number.get(v)).unwrap()
}

fn written_twice(v: &mut In<One, Write>, number: VPtr<u64, One>) {
    let (root, _) = v.root_mut();
    *number.get_mut(v) = *root;
    *root = 1;
}

fn main() {}
