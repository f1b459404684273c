// A reference, or the token, is kept after leaving.
use spacejmp::{In, Read, Space, VBox};

spacejmp::brand! { One => Option<VBox<u64, One>> }

fn root(one: &Space<One>) {
    let kept = one.read(|v| v.root()).unwrap();
    println!("{kept:?}");
}

fn value(one: &Space<One>) {
    let kept = one.read(|v| v.root().as_ref().map(|number| number.get(v))).unwrap();
    println!("{kept:?}");
}

fn outer_variable(one: &Space<One>) {
    let mut kept: Option<&Option<VBox<u64, One>>> = None;
    one.read(|v| kept = Some(v.root())).unwrap();
    println!("{kept:?}");
}

fn token(one: &Space<One>) {
    let mut kept: Option<&mut In<One, Read>> = None;
    one.read(|v| kept = Some(v)).unwrap();
    println!("{kept:?}");
}

fn main() {}
