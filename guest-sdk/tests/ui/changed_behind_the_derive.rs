// What the derive has read is not what is stored: a field is added behind it, and a macro in the
// place of a type gives another one each time.
use spacejmp::Storable;

#[derive(Storable)]
#[meddler::add_a_field]
struct Grown {
    number: u64,
}

#[derive(Storable)]
struct Alternating {
    number: meddler::another_each_time!(),
}

fn main() {}
