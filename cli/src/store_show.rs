//! A segment and a VAS as `ls` and `show` print them, as text and as JSON.

use std::collections::HashMap;
use std::fmt::Write as _;

use abi::objects::{LeaseId, Lifetime, PagePolicy, Right, SegId};
use seg_lock::LockView;
use serde::Serialize;
use vmm::store::{Access, Header, LeaseView, SegmentRecord, VasRecord, counted};

use crate::store_options::size;

/// The live VMs by lease.
pub(crate) type Live = HashMap<LeaseId, LeaseView>;

/// A VM that has something attached.
#[derive(Debug, Serialize)]
pub(crate) struct Attacher {
    vm: String,
    pid: Option<u32>,
    program: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    right: Option<&'static str>,
}

impl Attacher {
    fn of(lease: LeaseId, right: Option<Right>, live: &Live) -> Attacher {
        let view = live.get(&lease);
        Attacher {
            vm: lease.to_string(),
            pid: view.map(|view| view.pid),
            program: view.map(|view| view.program.clone()),
            right: right.map(right_text),
        }
    }

    fn line(&self) -> String {
        let who = match (self.pid, &self.program) {
            (Some(pid), Some(program)) => format!("process {pid} ({})", plain(program)),
            _ => format!("VM {}", self.vm),
        };
        self.right.map_or_else(|| who.clone(), |right| format!("{who} to {right}"))
    }
}

/// A thread inside a VAS.
#[derive(Debug, Serialize)]
pub(crate) struct Inside {
    vas: String,
    pid: u32,
    program: String,
    thread: u64,
}

/// The lock, as it was when the page was read.
#[derive(Debug, Serialize)]
pub(crate) struct Lock {
    state: &'static str,
    owner: Option<Attacher>,
    readers: u64,
    waiting_shared: u32,
    waiting_exclusive: u32,
    inconsistent: bool,
}

impl Lock {
    fn of(view: &LockView, live: &Live) -> Lock {
        let readers = view.readers.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        Lock {
            state: match (view.owner, readers) {
                (Some(_), _) => "exclusive",
                (None, 0) => "free",
                (None, _) => "shared",
            },
            owner: view.owner_lease().map(|lease| Attacher::of(lease, None, live)),
            readers,
            waiting_shared: view.waiting_shared,
            waiting_exclusive: view.waiting_exclusive,
            inconsistent: view.inconsistent,
        }
    }

    fn line(&self) -> String {
        let mut text = self.state.to_owned();
        if let Some(owner) = &self.owner {
            let _ = write!(text, ", held by {}", owner.line());
            if owner.pid.is_none() {
                text += ", which is dead: the next VM that wants the lock gets it";
            }
        }
        if self.readers > 0 {
            let _ = write!(text, ", {}", counted(self.readers, "reader"));
        }
        if self.waiting_shared + self.waiting_exclusive > 0 {
            let (shared, alone) = (self.waiting_shared, self.waiting_exclusive);
            let _ = write!(text, ", waiting: {shared} to read, {alone} to write");
        }
        text
    }
}

/// One segment.
#[derive(Debug, Serialize)]
pub(crate) struct Segment {
    name: String,
    sid: String,
    size_bytes: u64,
    reserve_bytes: u64,
    stored_bytes: u64,
    base: String,
    mode: String,
    access: &'static str,
    lifetime: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    pages: &'static str,
    lockable: bool,
    dirty: bool,
    inconsistent: bool,
    #[serde(skip)]
    of_another_boot: bool,
    created_ns: u64,
    root: Option<Root>,
    attached: Vec<Attacher>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vases: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inside: Option<Vec<Inside>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<Lock>,
}

#[derive(Debug, Serialize)]
struct Root {
    address: String,
    fingerprint: String,
}

impl Segment {
    pub(crate) fn of(record: &SegmentRecord, live: &Live) -> Segment {
        let header = &record.header;
        let [first, second] = header.root.fingerprint;
        let attached = record.attachers.iter();
        Segment {
            name: record.name.as_str().to_owned(),
            sid: header.sid.to_string(),
            size_bytes: header.size_bytes,
            reserve_bytes: header.reserve_bytes,
            stored_bytes: record.stored_bytes,
            base: format!("{:#x}", header.base),
            mode: format!("{:03o}", record.mode.bits()),
            access: access_text(record.access),
            lifetime: match header.lifetime {
                Lifetime::Persistent => "persistent",
                Lifetime::Volatile => "volatile",
                Lifetime::Versioned => "versioned",
            },
            durability: durability(header),
            version: record.version,
            pages: match header.pages {
                PagePolicy::Largest => "largest",
                PagePolicy::Small4K => "4k",
                PagePolicy::Large2M => "2m",
            },
            lockable: header.lockable,
            dirty: record.dirty(),
            inconsistent: record.inconsistent,
            of_another_boot: record.of_another_boot,
            created_ns: header.created_ns,
            root: (header.root.address != 0).then(|| Root {
                address: format!("{:#x}", header.root.address),
                fingerprint: format!("{first:016x}{second:016x}"),
            }),
            attached: attached.map(|(id, right)| Attacher::of(*id, Some(*right), live)).collect(),
            vases: None,
            inside: None,
            lock: None,
        }
    }

    /// With everything that only `show` prints.
    pub(crate) fn with_use(mut self, vases: &[VasRecord], live: &Live, lock: &LockView) -> Segment {
        self.vases = Some(vases.iter().map(|vas| vas.name.as_str().to_owned()).collect());
        self.inside = Some(vases.iter().flat_map(|vas| inside(vas, live)).collect());
        self.lock = Some(Lock::of(lock, live));
        self
    }

    fn state(&self) -> String {
        let words = [
            (self.dirty, "dirty"),
            (self.inconsistent, "inconsistent"),
            (self.lifetime == "volatile", "volatile"),
            (self.lifetime == "versioned", "versioned"),
        ];
        let words = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word);
        let words: Vec<_> = words.chain(self.durability.as_deref()).collect();
        if words.is_empty() { "clean".into() } else { words.join(", ") }
    }

    pub(crate) fn row(&self) -> Vec<String> {
        vec![
            plain(&self.name),
            size(self.size_bytes),
            size(self.stored_bytes),
            self.base.clone(),
            self.mode.clone(),
            self.attached.len().to_string(),
            number_or_dash(self.version),
            self.state(),
        ]
    }

    pub(crate) fn lines(&self) -> String {
        let mut lines = Lines::default();
        lines.add("segment", &plain(&self.name));
        lines.add("id", &self.sid);
        let bytes = counted(self.size_bytes, "byte");
        lines.add("size", &format!("{} ({bytes})", size(self.size_bytes)));
        lines.add("reserve", &size(self.reserve_bytes));
        lines.add("stored", &size(self.stored_bytes));
        lines.add("base", &self.base);
        lines.add("mode", &format!("{} (you may {})", self.mode, self.access));
        lines.add("lifetime", self.lifetime);
        if let Some(version) = self.version {
            lines.add("version", &version.to_string());
        }
        lines.add("pages", self.pages);
        let why = match self.of_another_boot {
            true => " (the host lost power, or was started anew, while a program had it)",
            false => "",
        };
        lines.add("state", &(self.state() + why));
        let root = |root: &Root| format!("{}, type {}", root.address, root.fingerprint);
        lines.add("root", &self.root.as_ref().map_or_else(|| "none".into(), root));
        lines.add("lockable", if self.lockable { "yes" } else { "no" });
        lines.add("lock", &self.lock.as_ref().map(Lock::line).unwrap_or_default());
        let vases: Vec<_> = self.vases.iter().flatten().map(|name| plain(name)).collect();
        lines.list("in VASes", &vases);
        lines.list("attached", &self.attached.iter().map(Attacher::line).collect::<Vec<_>>());
        lines.inside(self.inside.as_deref().unwrap_or_default());
        lines.0
    }
}

/// One VAS.
#[derive(Debug, Serialize)]
pub(crate) struct Vas {
    name: String,
    vid: String,
    mode: String,
    access: &'static str,
    tagged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    segments: Vec<VasSegment>,
    attached: Vec<Attacher>,
    inside: Vec<Inside>,
}

#[derive(Debug, Serialize)]
struct VasSegment {
    name: String,
    #[serde(skip)]
    id: SegId,
    sid: String,
    right: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

impl Vas {
    /// `segment` returns what the store knows of a segment of the VAS, if anything.
    pub(crate) fn of(
        vas: &VasRecord,
        live: &Live,
        segment: impl Fn(&vmm::store::VasSegment) -> Option<SegmentRecord>,
    ) -> Vas {
        let mut attached: Vec<_> = live
            .values()
            .filter(|view| view.vases.contains(&vas.vid))
            .map(|view| Attacher::of(view.id, None, live))
            .collect();
        attached.sort_by_key(|attacher| attacher.pid);
        let of_vas = |listed: &vmm::store::VasSegment| {
            let known = segment(listed);
            let name = known.as_ref().map_or(&listed.name, |known| &known.name);
            VasSegment {
                name: name.as_str().to_owned(),
                id: listed.sid,
                sid: listed.sid.to_string(),
                right: right_text(listed.right),
                size_bytes: known.as_ref().map(|known| known.header.size_bytes),
                durability: known.as_ref().and_then(|known| durability(&known.header)),
                version: known.as_ref().and_then(|known| known.version),
                base: known.map(|known| format!("{:#x}", known.header.base)),
            }
        };
        Vas {
            name: vas.name.as_str().to_owned(),
            vid: vas.vid.to_string(),
            mode: format!("{:03o}", vas.mode.bits()),
            access: access_text(vas.access),
            tagged: vas.tagged,
            number: None,
            segments: vas.segments.iter().map(of_vas).collect(),
            attached,
            inside: inside(vas, live),
        }
    }

    /// With the number of the newest commit through it.
    pub(crate) fn numbered(self, number: Option<u64>) -> Vas {
        Vas { number, ..self }
    }

    /// With what lists say of its versioned segments: `known` gives the header of a segment and the
    /// number of its newest version.
    pub(crate) fn with_versions(
        mut self,
        known: impl Fn(SegId) -> Option<(Header, Option<u64>)>,
    ) -> Vas {
        for segment in &mut self.segments {
            if let Some((header, version)) = known(segment.id) {
                (segment.durability, segment.version) = (durability(&header), version);
            }
        }
        self
    }

    pub(crate) fn row(&self) -> Vec<String> {
        let used = (!self.inside.is_empty()).then(|| "in use".to_owned());
        let mut kept: Vec<_> =
            self.segments.iter().filter_map(|it| it.durability.clone()).collect();
        kept.sort_unstable();
        kept.dedup();
        let state = used.into_iter().chain(kept).collect::<Vec<_>>().join(", ");
        vec![
            plain(&self.name),
            self.segments.len().to_string(),
            self.mode.clone(),
            self.attached.len().to_string(),
            number_or_dash(self.number),
            state,
        ]
    }

    pub(crate) fn lines(&self) -> String {
        let mut lines = Lines::default();
        lines.add("VAS", &plain(&self.name));
        lines.add("id", &self.vid);
        lines.add("mode", &format!("{} (you may {})", self.mode, self.access));
        lines.add("tagged", if self.tagged { "yes" } else { "no" });
        if let Some(number) = self.number {
            lines.add("version", &number.to_string());
        }
        let segment = |segment: &VasSegment| match (&segment.base, segment.size_bytes) {
            (Some(base), Some(bytes)) => {
                let durability = segment.durability.iter();
                let durability: String =
                    durability.map(|it| format!(", versioned, {it}")).collect();
                let version = segment.version.iter();
                let version: String = version.map(|it| format!(", version {it}")).collect();
                let (name, size) = (plain(&segment.name), size(bytes));
                format!("{name} at {base}, {size}, to {}{durability}{version}", segment.right)
            }
            _ => format!("{} ({}): missing or unreadable", plain(&segment.name), segment.sid),
        };
        lines.list("segments", &self.segments.iter().map(segment).collect::<Vec<_>>());
        lines.list("attached", &self.attached.iter().map(Attacher::line).collect::<Vec<_>>());
        lines.inside(&self.inside);
        lines.0
    }
}

/// When commits of a segment survive a power cut; `None` if it is not versioned.
fn durability(header: &Header) -> Option<String> {
    (header.lifetime == Lifetime::Versioned).then(|| header.durability.to_string())
}

fn number_or_dash(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn inside(vas: &VasRecord, live: &Live) -> Vec<Inside> {
    let of_vm = |view: &LeaseView| {
        let within = view.inside.iter().filter(|thread| thread.vid == vas.vid);
        let inside = within.map(|thread| Inside {
            vas: vas.name.as_str().to_owned(),
            pid: view.pid,
            program: view.program.clone(),
            thread: thread.thread,
        });
        inside.collect::<Vec<_>>()
    };
    live.values().flat_map(of_vm).collect()
}

fn access_text(access: Access) -> &'static str {
    match access {
        Access::None => "none",
        Access::Read => "read",
        Access::Write => "write",
    }
}

fn right_text(right: Right) -> &'static str {
    match right {
        Right::Read => "read",
        Right::Write => "write",
    }
}

/// Makes names from outside safe for one line; the exact ones are in the JSON.
pub(crate) fn plain(text: &str) -> String {
    vmm::store::Name::new(text.as_bytes())
        .map_or_else(|_| crate::errors::one_line(text), |name| name.to_string())
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key:<10}{value}");
    }

    fn list(&mut self, key: &str, values: &[String]) {
        match values.split_first() {
            None => self.add(key, "none"),
            Some((first, rest)) => {
                self.add(key, first);
                rest.iter().for_each(|value| self.add("", value));
            }
        }
    }

    fn inside(&mut self, inside: &[Inside]) {
        let line = |one: &Inside| {
            let (vas, program) = (plain(&one.vas), plain(&one.program));
            format!("thread {} of process {} ({program}) in '{vas}'", one.thread, one.pid)
        };
        self.list("inside", &inside.iter().map(line).collect::<Vec<_>>());
    }
}
