// Types that are made from earlier ones: what was there must not be lost by oversight.
use spacejmp::{Storable, VPtr, VVec, brand};

mod v1 {
    use spacejmp::{Storable, VPtr, VVec};

    #[derive(Storable)]
    #[storable(vas = super::Diary<'v>)]
    pub struct Notes<'v> {
        pub list: VVec<u32, super::Diary<'v>>,
        pub shared: VPtr<Old, super::Diary<'v>>,
        pub count: u32,
    }

    #[derive(Storable)]
    pub struct Old(pub u32);

    #[derive(Storable)]
    pub enum Order {
        Up,
        Down,
    }
}

brand! { Diary<'v> => u64 }

// `count` is neither kept nor given up.
#[derive(Storable)]
#[storable(vas = Diary<'v>, version = 2, from = v1::Notes<'v>, gone(shared))]
struct Forgotten<'v> {
    list: VVec<u32, Diary<'v>>,
}

// `total` was not there, and nothing says what it is.
#[derive(Storable)]
#[storable(vas = Diary<'v>, version = 2, from = v1::Notes<'v>, gone(shared, count))]
struct NotSaid<'v> {
    list: VVec<u32, Diary<'v>>,
    total: u64,
}

// The type of `count` is another one.
#[derive(Storable)]
#[storable(vas = Diary<'v>, version = 2, from = v1::Notes<'v>, gone(shared))]
struct OtherType<'v> {
    list: VVec<u32, Diary<'v>>,
    count: u64,
}

// What is shared has other pointers to it.
#[derive(Storable)]
#[storable(version = 2, from = v1::Old)]
struct New(u32);

#[derive(Storable)]
#[storable(vas = Diary<'v>, version = 2, from = v1::Notes<'v>, gone(list, count))]
struct Shared<'v> {
    #[storable(upgrade)]
    shared: VPtr<New, Diary<'v>>,
}

// A variant is missing.
#[derive(Storable)]
#[storable(version = 2, from = v1::Order)]
enum OneWay {
    Up,
}

fn main() {}
