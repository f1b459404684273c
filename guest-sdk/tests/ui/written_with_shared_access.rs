// Something is written where the thread has only entered to read.
use spacejmp::{In, Read, VBox, VPtr};

spacejmp::brand! { One => u64 }

fn owned(number: &mut VBox<u64, One>, v: &In<One, Read>) {
    *number.get_mut(v) = 1;
}

fn shared(number: VPtr<u64, One>, v: &mut In<One, Read>) {
    *number.get_mut(v) = 1;
}

fn made(v: &In<One, Read>) {
    let _ = VBox::new(v, 1);
}

fn root(v: &mut In<One, Read>) {
    *v.root_mut().0 = 1;
}

fn main() {}
