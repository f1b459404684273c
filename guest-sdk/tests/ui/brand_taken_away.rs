// An attribute takes the brand's type away, and a type that is the same one in all visits has its name.

struct Fixed;

type Hidden<'v> = Fixed;

spacejmp::brand! {
    /// Handles seem to end with the visit.
    #[cfg(any())]
    Hidden<'v> => Option<spacejmp::VBox<u64, Fixed>>
}

spacejmp::brand! {
    /// Nor has a brand that is kept any attributes.
    #[derive(Debug)]
    pub Shown => Option<spacejmp::VBox<u64, Shown>>,
    Another<'v> => u64
}

fn main() {}
