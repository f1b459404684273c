//! `diff`: in which pages two versions differ, of a segment, or of a VAS's segments.

use std::fmt::Write as _;
use std::time::Duration;

use abi::objects::SegId;
use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::store::{
    Chosen, DiffRange, Name, Progress, SegmentDiff, SegmentView, Store, StoreError, counted,
};
use vmm::vas::VasError;
use vmm::vas::snapshot::{Wanted, snapshot, vas_at};

use super::Of;
use super::names::{of_segment, of_vas};
use crate::errors::{self, Failure};
use crate::store_options::{Waits, failed, name_parser, size, waiting_note};
use crate::store_show::plain;
use crate::vas_archive::Meter;

/// Runs of pages that are printed of each segment without `--all`.
const RANGES_SHOWN: usize = 20;

/// Show in which pages two versions differ, or two segments or VASes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg diff ledger                      what the newest version has changed
  spacejmp seg diff ledger@monday               what has changed since
  spacejmp seg diff ledger@1207 @1210           two versions of one segment
  spacejmp seg diff ledger trial                two segments, versioned or raw
  spacejmp vas diff books@monday                all versioned segments of a VAS
  spacejmp vas diff books trial --json | jq .segments[].pages

Without the second name, the first one's newest version is compared with the version before, or with
the one that is named. Shown are the addresses of the pages that differ, in runs. Size and root object
are compared as well. What both have in the same file is not read, so that versions, tags and clones
are compared as quickly as they differ little. Segments of two VASes are compared if they begin at the
same address. Raw segments have no versions; beside versions they are left out.

Exit status: 0 if nothing differs, 1 if something does, 125 if it could not be looked at.")]
pub(crate) struct Diff {
    #[arg(value_name = "NAME[@VERSION]", value_parser = name_parser())]
    name: Name,
    /// What to compare it with: another name, or `@VERSION` of the same
    #[arg(value_name = "[NAME][@VERSION]", value_parser = name_parser())]
    with: Option<Name>,
    /// List all runs of pages, not only the first 20
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    waits: Waits,
}

/// What is compared.
#[derive(Debug, Default)]
struct Pairs {
    both: Vec<[Wanted; 2]>,
    only_from: Vec<String>,
    only_to: Vec<String>,
}

pub(super) fn diff(of: Of, store: &Store, args: &Diff) -> Result<ExitCode, Failure> {
    let doing = || match &args.with {
        Some(with) => format!("compare '{}' with '{with}'", args.name),
        None => format!("show what has changed in '{}'", args.name),
    };
    let pairs = match of {
        Of::Segment => segments(store, args),
        Of::Vas => vases(store, args),
    };
    let pairs = pairs.map_err(failed(doing()))?;
    let compared = compare(store, &pairs, args.waits.timeout).map_err(failed(doing()))?;
    let is_same = pairs.only_from.is_empty() && pairs.only_to.is_empty();
    let differ = !is_same || compared.iter().any(|one| one.differ);
    let written = match (of, &compared[..]) {
        (Of::Segment, [one]) => {
            errors::output(args.waits.output.json, one, |_| one.text(args.all))?
        }
        _ => {
            let Pairs { only_from, only_to, .. } = pairs;
            let shown = Shown { differ, segments: compared, only_from, only_to };
            errors::output(args.waits.output.json, &shown, |_| shown.text(args.all))?
        }
    };
    Ok(if differ { ExitCode::Program(1) } else { written })
}

fn segments(store: &Store, args: &Diff) -> Result<Pairs, StoreError> {
    let (from, to) = match &args.with {
        Some(with) => {
            let from = store.choose_segment(&args.name)?;
            (from.clone(), of_segment(store, with, &from)?)
        }
        None => match store.choose_segment(&args.name)? {
            Chosen::Number(sid, number) => (Chosen::Number(sid, number), Chosen::Whole(sid)),
            Chosen::Whole(sid) => match store.open_segment(sid)?.header().kept {
                Some(kept) => (Chosen::Whole(sid), Chosen::Whole(kept.of)),
                None => (Chosen::Number(sid, before_newest(store, sid)?), Chosen::Whole(sid)),
            },
        },
    };
    Ok(Pairs { both: vec![[wanted(&from), wanted(&to)]], ..Pairs::default() })
}

/// The number of the version before the newest; version 0 has none before it.
fn before_newest(store: &Store, sid: SegId) -> Result<u64, StoreError> {
    // Tags may have higher numbers, of files that it had before it was converted.
    let newest = match store.newest_number(&store.open_segment(sid)?)? {
        Some(number) => number,
        // The error that there are none.
        None => store.history(sid)?.first().map_or(0, |version| version.number),
    };
    Ok(newest.saturating_sub(1))
}

fn wanted(chosen: &Chosen<SegId>) -> Wanted {
    match *chosen {
        Chosen::Whole(sid) => (sid, None),
        Chosen::Number(sid, number) => (sid, Some(number)),
    }
}

fn vases(store: &Store, args: &Diff) -> Result<Pairs, StoreError> {
    let first = store.choose_vas(&args.name)?;
    let (from, to) = match (&args.with, first) {
        (Some(with), first) => {
            let to = of_vas(store, with, &first)?;
            (first, to)
        }
        (None, Chosen::Number(vid, number)) => (Chosen::Number(vid, number), Chosen::Whole(vid)),
        (None, Chosen::Whole(vid)) => match store.vas(vid)?.name.as_str().rsplit_once('@') {
            Some((original, _)) => {
                let original = store.find_vas(&Name::new(original.as_bytes())?)?;
                (Chosen::Whole(vid), Chosen::Whole(original))
            }
            None if let [_, before, ..] = &store.vas_history(vid)?[..] => {
                (Chosen::Number(vid, before.number), Chosen::Whole(vid))
            }
            None => {
                let member = vmm::vas::kept::versioned_member(store, &store.vas(vid)?)?;
                let before = before_newest(store, member.sid())?;
                (Chosen::Number(vid, before), Chosen::Whole(vid))
            }
        },
    };
    let (from, to) = (members(store, &from)?, members(store, &to)?);
    let is_version = from.is_version || to.is_version;
    Ok(pairs_of(from.segments, to.segments, is_version))
}

/// The segments of a VAS, or of a version of one.
struct Members {
    segments: Vec<Member>,
    is_version: bool,
}

struct Member {
    base: u64,
    name: String,
    is_versioned: bool,
    wanted: Wanted,
}

fn members(store: &Store, chosen: &Chosen<abi::objects::VasId>) -> Result<Members, StoreError> {
    let (_, wanted) = vas_at(store, chosen)?;
    let mut all_kept = true;
    let mut segments = Vec::new();
    for wanted in wanted {
        let segment = store.open_segment(wanted.0)?;
        all_kept &= segment.header().kept.is_some();
        let (base, is_versioned) = (segment.header().base, segment.is_versioned());
        let name = segment.name().as_str().to_owned();
        segments.push(Member { base, name, is_versioned, wanted });
    }
    let is_version = matches!(chosen, Chosen::Number(..)) || all_kept && !segments.is_empty();
    Ok(Members { segments, is_version })
}

/// By their addresses, which copies, tags and imports keep.
fn pairs_of(from: Vec<Member>, to: Vec<Member>, is_version: bool) -> Pairs {
    let mut pairs = Pairs::default();
    let counts = |it: &Member| it.is_versioned || !is_version;
    let mut to: Vec<_> = to.into_iter().filter(counts).collect();
    for one in from.into_iter().filter(counts) {
        match to.iter().position(|other| other.base == one.base) {
            Some(at) => pairs.both.push([one.wanted, to.swap_remove(at).wanted]),
            None => pairs.only_from.push(one.name),
        }
    }
    pairs.only_to.extend(to.into_iter().map(|other| other.name));
    pairs.only_to.sort_unstable();
    pairs
}

fn compare(
    store: &Store,
    pairs: &Pairs,
    timeout: Option<Duration>,
) -> Result<Vec<Compared>, VasError> {
    let all: Vec<Wanted> = pairs.both.iter().flatten().copied().collect();
    let snapshot = snapshot(store, &all, timeout, &waiting_note())?;
    let mut meter = Meter::new();
    let mut compared = Vec::new();
    for pair in snapshot.views.chunks(2) {
        let [from, to] = pair else { continue };
        let size_bytes = from.segment().header().size_bytes.max(to.segment().header().size_bytes);
        let segment = from.segment().name().clone();
        let mut now = Progress { segment, done_bytes: 0, size_bytes };
        let found = vmm::store::diff(from, to, &mut |done_bytes| {
            now.done_bytes = done_bytes.min(size_bytes);
            meter.tell(&now);
        })?;
        compared.push(Compared::of(from, to, &found));
    }
    snapshot.check()?;
    Ok(compared)
}

/// One of the two.
#[derive(Debug, Serialize)]
struct Side {
    name: String,
    /// Of a versioned segment.
    version: Option<u64>,
    size_bytes: u64,
    root: Option<String>,
    #[serde(skip)]
    is_kept: bool,
}

impl Side {
    fn of(view: &SegmentView) -> Side {
        let header = view.segment().header();
        let root = header.root.address;
        Side {
            name: view.segment().name().as_str().to_owned(),
            version: view.number(),
            size_bytes: header.size_bytes,
            root: (root != 0).then(|| format!("{root:#x}")),
            is_kept: header.kept.is_some(),
        }
    }

    /// As it could be named.
    fn label(&self) -> String {
        match self.version.filter(|_| !self.is_kept) {
            Some(number) => format!("{}@{number}", plain(&self.name)),
            None => plain(&self.name),
        }
    }
}

/// A run of pages.
#[derive(Debug, Serialize)]
struct Range {
    address: String,
    offset_bytes: u64,
    len_bytes: u64,
    #[serde(skip)]
    start: u64,
}

/// Two segments or versions.
#[derive(Debug, Serialize)]
struct Compared {
    differ: bool,
    from: Side,
    to: Side,
    pages: u64,
    bytes: u64,
    compared_pages: u64,
    ranges: Vec<Range>,
    #[serde(skip)]
    is_resized: bool,
    #[serde(skip)]
    is_rerooted: bool,
}

impl Compared {
    fn of(from: &SegmentView, to: &SegmentView, found: &SegmentDiff) -> Compared {
        // Those of the second, which is the newer one as a rule.
        let base = to.segment().header().base;
        let range = |&DiffRange { offset, bytes }: &DiffRange| {
            let start = base.saturating_add(offset);
            let address = format!("{start:#x}");
            Range { address, offset_bytes: offset, len_bytes: bytes, start }
        };
        Compared {
            differ: !found.is_empty(),
            from: Side::of(from),
            to: Side::of(to),
            pages: found.bytes() / abi::PAGE_SIZE,
            bytes: found.bytes(),
            compared_pages: found.compared_pages,
            ranges: found.ranges.iter().map(range).collect(),
            is_resized: found.is_resized,
            is_rerooted: found.is_rerooted,
        }
    }

    fn text(&self, all: bool) -> String {
        let (from, to) = (self.from.label(), self.to.label());
        let mut text = match self.pages {
            0 => format!("{from} and {to}: no page differs\n"),
            pages => {
                let runs = counted(self.ranges.len() as u64, "run");
                let (pages, bytes) = (counted(pages, "page"), size(self.bytes));
                format!("{from} and {to}: differ in {pages} ({bytes}), in {runs}\n")
            }
        };
        if self.is_resized {
            let (from, to) = (size(self.from.size_bytes), size(self.to.size_bytes));
            let _ = writeln!(text, "  size         {from}, {to}");
        }
        if self.is_rerooted {
            let root = |side: &Side| side.root.clone().unwrap_or_else(|| "none".to_owned());
            let _ = writeln!(text, "  root object  {}, {}", root(&self.from), root(&self.to));
        }
        let shown = if all { self.ranges.len() } else { RANGES_SHOWN };
        for range in self.ranges.iter().take(shown) {
            let end = range.start.saturating_add(range.len_bytes);
            let _ = writeln!(text, "  {}-{end:#x}  {}", range.address, size(range.len_bytes));
        }
        let more = self.ranges.len().saturating_sub(shown) as u64;
        if more > 0 {
            let _ = writeln!(text, "  and {more} more, which --all lists");
        }
        text
    }
}

/// Two VASes.
#[derive(Debug, Serialize)]
struct Shown {
    differ: bool,
    segments: Vec<Compared>,
    only_from: Vec<String>,
    only_to: Vec<String>,
}

impl Shown {
    fn text(&self, all: bool) -> String {
        let mut text: String = self.segments.iter().map(|one| one.text(all)).collect();
        for (names, which) in [(&self.only_from, "first"), (&self.only_to, "second")] {
            for name in names {
                let _ = writeln!(text, "{}: only in the {which}", plain(name));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(base: u64, name: &str, is_versioned: bool) -> Member {
        let wanted = (SegId::new(base).expect("not 0"), None);
        Member { base, name: name.to_owned(), is_versioned, wanted }
    }

    #[test]
    fn segments_are_compared_that_begin_at_the_same_address() {
        let from = || vec![member(1, "a", true), member(2, "raw", false), member(3, "b", true)];
        let to = || vec![member(3, "b2", true), member(2, "raw2", false), member(4, "c", true)];
        let pairs = pairs_of(from(), to(), false);
        let both: Vec<_> =
            pairs.both.iter().map(|[one, other]| (one.0.raw(), other.0.raw())).collect();
        assert_eq!(both, [(2, 2), (3, 3)]);
        assert_eq!((pairs.only_from, pairs.only_to), (vec!["a".into()], vec!["c".into()]));
        // A version has no raw ones.
        assert_eq!(pairs_of(from(), to(), true).both.len(), 1);
    }
}
