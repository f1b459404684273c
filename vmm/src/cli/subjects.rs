//! The name and subject of each experiment of `spacejmp bench`, for the command, its help and a
//! report. `spacejmp-bench` implements them.

/// The subject of an experiment.
#[derive(Debug)]
pub struct Subject {
    /// On the command line.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Which table or figure of the paper it reproduces; empty if none.
    pub paper: &'static str,
}

/// `bench run`.
pub const RUN: Subject = Subject {
    name: "run",
    about: "Running an ordinary program in a VM, against running it natively",
    paper: "",
};
/// `bench switch`.
pub const SWITCH: Subject = Subject {
    name: "switch",
    about: "Switching between address spaces, with and without locks",
    paper: "Table 2",
};
/// `bench map`.
pub const MAP: Subject = Subject {
    name: "map",
    about: "Attaching and detaching address spaces, against mapping files",
    paper: "Figure 1",
};
/// `bench tlb`.
pub const TLB: Subject = Subject {
    name: "tlb",
    about: "Reaching random pages, with and without a switch before each",
    paper: "Figure 6",
};
/// `bench rpc`.
pub const RPC: Subject = Subject {
    name: "rpc",
    about: "Getting bytes another party has, against channels and sockets",
    paper: "Figure 7",
};
/// `bench gups`.
pub const GUPS: Subject = Subject {
    name: "gups",
    about: "Random updates of a table in windows, against remapping and messages",
    paper: "Figures 8 and 9",
};
/// `bench scale`.
pub const SCALE: Subject = Subject {
    name: "scale",
    about: "Switching with ever more address spaces, segments and processors",
    paper: "",
};
/// `bench sdk`.
pub const SDK: Subject = Subject {
    name: "sdk",
    about: "Heap and collections in an address space, against those at home",
    paper: "",
};
/// `bench start`.
pub const START: Subject = Subject {
    name: "start",
    about: "Starting an empty program, against other ways to isolate one",
    paper: "",
};

/// All, in the order of the report.
pub const ALL: [&Subject; 9] = [&RUN, &SWITCH, &MAP, &TLB, &RPC, &GUPS, &SCALE, &SDK, &START];

/// The subject with a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Subject> {
    ALL.into_iter().find(|subject| subject.name == name)
}
