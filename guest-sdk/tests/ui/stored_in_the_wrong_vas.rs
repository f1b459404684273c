// A pointer of another VAS is stored, at the root, in a field, or in memory; and a type is stored
// that does not say that it may be, or has a part that may not.
use spacejmp::{AllocError, At, Storable, VBox, VPtr, Write};

spacejmp::brand! { One => Option<VBox<u64, Two>>, Two => u64, Three => Plain }

#[derive(Storable)]
#[storable(vas = One)]
struct Node {
    other: VPtr<u64, Two>,
    name: String,
}

struct Plain(u64);

#[derive(Storable)]
enum Unpromised {
    Number(u64),
    Nothing,
}

fn boxed(at: &At<One, Write>, number: VPtr<u64, Two>) -> Result<VBox<VPtr<u64, Two>, One>, AllocError> {
    VBox::new(at, number)
}

fn main() {}
