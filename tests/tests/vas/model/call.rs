//! What a step is: a call as the guest program `vas_model` reads it, or the end of a VM.

use std::fmt;

/// How a thread requests a switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// `vas_switch`.
    Wait,
    /// The same as a hypercall.
    Hyper,
    /// `vas_try_switch`.
    Try,
    /// `vas_switch_timeout`, with a zero limit.
    Within,
}

/// Parameters of `seg_alloc`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Params {
    pub(super) base: u64,
    pub(super) size: u64,
    pub(super) reserve: u64,
    pub(super) volatile: bool,
    pub(super) pages: u64,
    pub(super) lockable: bool,
}

/// One call with its arguments. Ids and handles are what calls returned, or may have returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Call {
    VasCreate {
        name: char,
    },
    VasFind {
        name: char,
    },
    VasClone {
        vid: u64,
        name: char,
    },
    VasAttach {
        vid: u64,
        flags: u64,
    },
    VasDetach {
        vh: u64,
    },
    VasDelete {
        vid: u64,
    },
    VasMode {
        vid: u64,
        mode: u64,
    },
    VasTagged {
        vid: u64,
        tagged: bool,
    },
    InstanceTagged {
        vh: u64,
        tagged: bool,
    },
    VasStat {
        vid: u64,
    },
    VasList,
    VasSegments {
        vid: u64,
    },
    SegAlloc {
        name: char,
        params: Params,
    },
    SegFind {
        name: char,
    },
    SegClone {
        sid: u64,
        name: char,
    },
    SegAttach {
        vid: u64,
        sid: u64,
        right: u64,
    },
    SegAttachLocal {
        vh: u64,
        sid: u64,
        right: u64,
    },
    SegDetach {
        vid: u64,
        sid: u64,
    },
    SegDetachLocal {
        vh: u64,
        sid: u64,
    },
    SegMode {
        sid: u64,
        mode: u64,
    },
    SegLockable {
        sid: u64,
        lockable: bool,
    },
    SegPages {
        sid: u64,
        pages: u64,
    },
    SegRecover {
        sid: u64,
    },
    SegLifetime {
        sid: u64,
        volatile: bool,
    },
    SegDelete {
        sid: u64,
    },
    SegStat {
        sid: u64,
    },
    SegList,
    SegGrow {
        sid: u64,
        size: u64,
    },
    SegSync {
        sid: u64,
    },
    RootGet {
        sid: u64,
    },
    RootSet {
        sid: u64,
        root: [u64; 3],
    },
    Switch {
        how: How,
        vh: u64,
    },
    Current,
    Read {
        at: u64,
    },
    Write {
        at: u64,
        value: u64,
    },
    /// A system call reads the word.
    Out {
        at: u64,
    },
    /// A system call writes the word.
    In {
        at: u64,
        value: u64,
    },
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use abi::objects::{seg_ctl, vas_ctl};
        let number = |flag: bool| u8::from(flag);
        match self {
            Call::VasCreate { name } => write!(f, "vas_create {name} {}", 0o600),
            Call::VasFind { name } => write!(f, "vas_find {name}"),
            Call::VasClone { vid, name } => write!(f, "vas_clone {vid} {name}"),
            Call::VasAttach { vid, flags } => write!(f, "vas_attach {vid} {flags}"),
            Call::VasDetach { vh } => write!(f, "vas_detach {vh}"),
            Call::VasDelete { vid } => write!(f, "vas_delete {vid}"),
            Call::VasMode { vid, mode } => {
                write!(f, "vas_ctl {} {vid} {mode}", vas_ctl::SET_MODE)
            }
            Call::VasTagged { vid, tagged } => {
                write!(f, "vas_ctl {} {vid} {}", vas_ctl::SET_TAGGED, number(*tagged))
            }
            Call::InstanceTagged { vh, tagged } => {
                write!(f, "vas_ctl {} {vh} {}", vas_ctl::SET_INSTANCE_TAGGED, number(*tagged))
            }
            Call::VasStat { vid } => write!(f, "vas_stat {vid}"),
            Call::VasList => write!(f, "vas_list"),
            Call::VasSegments { vid } => write!(f, "vas_segments {vid}"),
            Call::SegAlloc { name, params } => {
                let Params { base, size, reserve, volatile, pages, lockable } = params;
                let (volatile, lockable) = (number(*volatile), number(*lockable));
                let mode = 0o600;
                write!(
                    f,
                    "seg_alloc {name} {base} {size} {reserve} {mode} {volatile} {pages} {lockable}"
                )
            }
            Call::SegFind { name } => write!(f, "seg_find {name}"),
            Call::SegClone { sid, name } => write!(f, "seg_clone {sid} {name}"),
            Call::SegAttach { vid, sid, right } => write!(f, "seg_attach {vid} {sid} {right}"),
            Call::SegAttachLocal { vh, sid, right } => {
                write!(f, "seg_attach_local {vh} {sid} {right}")
            }
            Call::SegDetach { vid, sid } => write!(f, "seg_detach {vid} {sid}"),
            Call::SegDetachLocal { vh, sid } => write!(f, "seg_detach_local {vh} {sid}"),
            Call::SegMode { sid, mode } => write!(f, "seg_ctl {sid} {} {mode}", seg_ctl::SET_MODE),
            Call::SegLockable { sid, lockable } => {
                write!(f, "seg_ctl {sid} {} {}", seg_ctl::SET_LOCKABLE, number(*lockable))
            }
            Call::SegPages { sid, pages } => {
                write!(f, "seg_ctl {sid} {} {pages}", seg_ctl::SET_PAGES)
            }
            Call::SegRecover { sid } => write!(f, "seg_ctl {sid} {} 0", seg_ctl::RECOVER),
            Call::SegLifetime { sid, volatile } => {
                write!(f, "seg_ctl {sid} {} {}", seg_ctl::SET_LIFETIME, number(*volatile))
            }
            Call::SegDelete { sid } => write!(f, "seg_delete {sid}"),
            Call::SegStat { sid } => write!(f, "seg_stat {sid}"),
            Call::SegList => write!(f, "seg_list"),
            Call::SegGrow { sid, size } => write!(f, "seg_grow {sid} {size}"),
            Call::SegSync { sid } => write!(f, "seg_sync {sid}"),
            Call::RootGet { sid } => write!(f, "seg_root_get {sid}"),
            Call::RootSet { sid, root: [address, a, b] } => {
                write!(f, "seg_root_set {sid} {address} {a} {b}")
            }
            Call::Switch { how: How::Wait, vh } => write!(f, "switch {vh}"),
            Call::Switch { how: How::Hyper, vh } => write!(f, "hyper {vh}"),
            Call::Switch { how: How::Try, vh } => write!(f, "try {vh}"),
            Call::Switch { how: How::Within, vh } => write!(f, "within {vh} 0"),
            Call::Current => write!(f, "current"),
            Call::Read { at } => write!(f, "read {at}"),
            Call::Write { at, value } => write!(f, "write {at} {value}"),
            Call::Out { at } => write!(f, "out {at}"),
            Call::In { at, value } => write!(f, "in {at} {value}"),
        }
    }
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A thread of a VM makes a call.
    Call { vm: usize, thread: usize, call: Call },
    /// A VM is killed, and another takes its place.
    Kill { vm: usize },
    /// A VM's program ends, wherever its threads are, and another takes its place.
    Exit { vm: usize },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Call { vm, thread, call } => write!(f, "VM {vm} thread {thread}: {call}"),
            Step::Kill { vm } => write!(f, "VM {vm} is killed"),
            Step::Exit { vm } => write!(f, "VM {vm} ends"),
        }
    }
}
