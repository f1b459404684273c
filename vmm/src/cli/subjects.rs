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

const fn subject(name: &'static str, about: &'static str, paper: &'static str) -> Subject {
    Subject { name, about, paper }
}

/// `bench run`.
pub const RUN: Subject =
    subject("run", "Running an ordinary program in a VM, against running it natively", "");
/// `bench switch`.
pub const SWITCH: Subject =
    subject("switch", "Switching between address spaces, with and without locks", "Table 2");
/// `bench map`.
pub const MAP: Subject =
    subject("map", "Attaching and detaching address spaces, against mapping files", "Figure 1");
/// `bench tlb`.
pub const TLB: Subject =
    subject("tlb", "Reaching random pages, with and without a switch before each", "Figure 6");
/// `bench rpc`.
pub const RPC: Subject =
    subject("rpc", "Getting bytes another party has, against channels and sockets", "Figure 7");
/// `bench gups`.
pub const GUPS: Subject = subject(
    "gups",
    "Random updates of a table in windows, against remapping and messages",
    "Figures 8 and 9",
);
/// `bench scale`.
pub const SCALE: Subject =
    subject("scale", "Switching with ever more address spaces, segments and processors", "");
/// `bench sdk`.
pub const SDK: Subject =
    subject("sdk", "Heap and collections in an address space, against those at home", "");
/// `bench start`.
pub const START: Subject =
    subject("start", "Starting an empty program, against other ways to isolate one", "");
/// `bench sam`.
pub const SAM: Subject = subject(
    "sam",
    "Working on reads of a genome, against samtools (cargo build --release -p genome)",
    "Figures 11 and 12",
);

/// `bench kv`.
pub const KV: Subject =
    subject("kv", "A key-value store without a server, against Redis and LMDB", "Figure 10");

/// `bench store`.
pub const STORE: Subject =
    subject("store", "Versioned spaces: commits, reads and loads, against LMDB, redb, SQLite", "");

/// What `bench all` measures, in the order of the report.
pub const ALL: [&Subject; 11] =
    [&RUN, &SWITCH, &MAP, &TLB, &RPC, &GUPS, &KV, &SAM, &SCALE, &SDK, &START];

/// What is measured only when it is named: it writes to a disk for minutes, which should be chosen, and compares
/// with what is built separately.
pub const ON_REQUEST: [&Subject; 1] = [&STORE];

/// All that have a name.
pub fn named() -> impl Iterator<Item = &'static Subject> {
    ALL.into_iter().chain(ON_REQUEST)
}

/// The subject with a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Subject> {
    named().find(|subject| subject.name == name)
}
