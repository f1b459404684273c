// Attributes that do not fit together.
use spacejmp::Storable;

#[derive(Storable)]
struct Before(u32);

#[derive(Storable)]
#[storable(from = Before)]
struct WithoutVersion(u32);

#[derive(Storable)]
#[storable(version = 1, from = Before)]
struct FirstFromEarlier(u32);

#[derive(Storable)]
#[storable(version = 0)]
struct Zero(u32);

#[derive(Storable)]
#[storable(version = 2, gone(0))]
struct GoneFromNothing(u32);

#[derive(Storable)]
#[storable(version = 2)]
struct NewWithoutFrom(#[storable(new)] u32);

#[derive(Storable)]
#[storable(version = 2, from = Before)]
struct NewAndOld(#[storable(new, was = 0)] u32);

#[derive(Storable)]
#[storable(version = 2, form = Before)]
struct Misspelt(u32);

#[derive(Storable)]
#[storable(version = 2, version = 3)]
struct Twice(u32);

fn main() {}
