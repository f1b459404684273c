// Brands of a family that are subtypes of each other are not each other, nor are types of values.
use std::marker::PhantomData;

use spacejmp::{At, Brand, In, Read, Space, VBox, VPtr, VSlice, VString, Write};

struct Family<T>(PhantomData<T>);

impl<T: 'static> Brand for Family<T> {
    type Root = u64;
    const NAME: &'static str = "Family";
    type Handles = spacejmp::brand::Kept<Self>;
}

type One = Family<for<'a> fn(&'a u8)>;
type Two = Family<fn(&'static u8)>;

fn witness(at: &At<One, Write>) -> &At<Two, Write> {
    at
}

fn token<'a>(v: &'a In<One, Read>) -> &'a In<Two, Read> {
    v
}

fn owner(number: VBox<u64, One>) -> VBox<u64, Two> {
    number
}

fn text(text: VString<One>) -> VString<Two> {
    text
}

fn pointer(number: VPtr<u64, One>) -> VPtr<u64, Two> {
    number
}

fn space(space: Space<One>) -> Space<Two> {
    space
}

fn pointee(
    kind: VPtr<PhantomData<for<'a> fn(&'a u8)>, One>,
) -> VPtr<PhantomData<fn(&'static u8)>, One> {
    kind
}

fn pointees(
    kind: VSlice<PhantomData<for<'a> fn(&'a u8)>, One>,
) -> VSlice<PhantomData<fn(&'static u8)>, One> {
    kind
}

fn main() {}
