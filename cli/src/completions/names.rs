//! `spacejmp __complete`: the names of objects in the store and of VMs that could stand where the cursor is,
//! for the completion scripts. It says nothing if there is no store, or nothing to say.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory};
use vmm::control::Vm;
use vmm::exit_code::ExitCode;
use vmm::store::{Name, Store};

use crate::Cli;
use crate::errors::{self, Failure};
use crate::snapshots;
use crate::store_options::StoreArgs;

/// Print the names in the store that could be the last word of a command line
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp __complete -- vas show bo
  spacejmp __complete -- seg untag ledger mon
  spacejmp __complete -- stop we")]
pub(crate) struct Args {
    /// The words behind `spacejmp`; the last may be empty
    #[arg(last = true)]
    words: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let words: Vec<String> =
        args.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut text = String::new();
    if let Some((place, typed)) = place(&words) {
        for name in candidates(&place) {
            // One to a line.
            if name.starts_with(typed) && !name.chars().any(char::is_control) {
                text += &(name + "\n");
            }
        }
    }
    errors::write_all(&mut io::stdout(), text.as_bytes())
}

fn candidates(place: &Place) -> Vec<String> {
    if place.kind == Kind::Vm {
        let vms = Vm::names().unwrap_or_default();
        return vms.iter().map(ToString::to_string).collect();
    }
    let path = StoreArgs::of(place.store.clone()).path();
    let store = path.ok().and_then(|path| Store::open(&path).ok());
    store.map(|store| names(&store, place)).unwrap_or_default()
}

/// What could stand at the cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    kind: Kind,
    /// As `--store` says.
    store: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// The name of a VAS, also of a tag.
    Vas,
    /// A segment's.
    Segment,
    /// A VAS's that has tags, or could have some.
    VasWithoutTag,
    /// A segment's.
    SegmentWithoutTag,
    /// A tag of this VAS.
    TagOfVas(String),
    /// Of this segment.
    TagOfSegment(String),
    /// What `diff` compares this VAS with.
    BesideVas(String),
    /// What it compares this segment with.
    BesideSegment(String),
    /// The name of a snapshot.
    Snapshot,
    /// The name or the number of a VM that runs.
    Vm,
}

/// Commands whose object is no version of another.
const WITHOUT_TAG: [&str; 7] = ["tag", "untag", "rollback", "log", "grow", "convert", "recover"];

/// Where the last word stands, and as far as it was typed.
fn place(words: &[String]) -> Option<(Place, &str)> {
    let (typed, before) = words.split_last()?;
    let mut command = &Cli::command();
    let mut path = Vec::new();
    let (mut store, mut waiting, mut positionals) = (None, None, Vec::new());
    for word in before {
        if let Some(option) = waiting.take() {
            store = Some(PathBuf::from(word)).filter(|_| option == "store").or(store);
        } else if let Some(option) = word.strip_prefix("--") {
            match option.split_once('=') {
                Some(("store", value)) => store = Some(PathBuf::from(value)),
                Some(_) => {}
                None => waiting = takes_value(command, option).then(|| option.to_owned()),
            }
        } else if let Some(sub) = command.find_subcommand(word) {
            path.push(sub.get_name());
            command = sub;
        } else if !word.starts_with('-') {
            positionals.push(word.as_str());
        }
    }
    let kind = match (&path[..], waiting.as_deref()) {
        (["run"], Some("vas")) => Kind::Vas,
        (["run"], Some("from")) => Kind::Snapshot,
        (_, Some(_)) => return None,
        (["snapshot", _], None) if !typed.starts_with('-') => {
            let argument = argument(command, positionals.len())?;
            ["name", "names"].contains(&argument).then_some(Kind::Snapshot)?
        }
        ([sub], None) if !typed.starts_with('-') => {
            (argument(command, positionals.len())? == "vm" && *sub != "run").then_some(Kind::Vm)?
        }
        ([group @ ("vas" | "seg"), sub], None) if !typed.starts_with('-') => {
            of_argument(*group == "vas", sub, argument(command, positionals.len())?, &positionals)?
        }
        _ => return None,
    };
    Some((Place { kind, store }, typed))
}

/// Options of all commands are known here, too.
fn takes_value(command: &Command, option: &str) -> bool {
    let named = |arg: &&Arg| arg.get_long() == Some(option);
    let root = Cli::command();
    let groups = root.get_subcommands().flat_map(Command::get_arguments);
    let mut all = command.get_arguments().chain(root.get_arguments()).chain(groups);
    all.find(named).is_some_and(|arg| arg.get_action().takes_values())
}

/// The positional argument with this number; the last one may be any number of words.
fn argument(command: &Command, number: usize) -> Option<&str> {
    let all: Vec<&Arg> = command.get_positionals().collect();
    let many = |arg: &&&Arg| matches!(arg.get_action(), clap::ArgAction::Append);
    let arg = all.get(number).or(all.last().filter(many))?;
    Some(arg.get_id().as_str())
}

fn of_argument(is_vas: bool, sub: &str, argument: &str, before: &[&str]) -> Option<Kind> {
    let first = || before.first().map(|name| (*name).to_owned());
    let of = |vas: fn(String) -> Kind, segment: fn(String) -> Kind| {
        first().map(if is_vas { vas } else { segment })
    };
    match (sub, argument) {
        ("create" | "import", _) => None,
        (_, "vas") => Some(Kind::VasWithoutTag),
        (_, "segment") => Some(Kind::Segment),
        ("untag", "tag") | ("rollback", "version") => of(Kind::TagOfVas, Kind::TagOfSegment),
        ("diff", "with") => of(Kind::BesideVas, Kind::BesideSegment),
        (_, "name" | "names") => Some(match (is_vas, WITHOUT_TAG.contains(&sub)) {
            (true, true) => Kind::VasWithoutTag,
            (true, false) => Kind::Vas,
            (false, true) => Kind::SegmentWithoutTag,
            (false, false) => Kind::Segment,
        }),
        _ => None,
    }
}

fn names(store: &Store, place: &Place) -> Vec<String> {
    let vases = || -> Vec<String> {
        let all = store.list_vases().unwrap_or_default();
        all.into_iter().map(|one| one.name.as_str().to_owned()).collect()
    };
    let segments = || -> Vec<String> {
        let all = store.list_segments().unwrap_or_default();
        all.into_iter().map(|one| one.name.as_str().to_owned()).collect()
    };
    let without = |mut names: Vec<String>| {
        names.retain(|name| !name.contains('@'));
        names
    };
    let of_vas = |of: &str| {
        let name = Name::new(of.as_bytes()).ok();
        let tags = name.and_then(|name| store.vas_tags(&name).ok()).unwrap_or_default();
        tags.into_iter().map(|(tag, _)| tag).collect::<Vec<_>>()
    };
    let of_segment = |of: &str| {
        let sid = Name::new(of.as_bytes()).ok().and_then(|name| store.find_segment(&name).ok());
        let kept = sid.and_then(|sid| store.kept_of(sid).ok()).unwrap_or_default();
        kept.into_iter().filter(|it| !it.is_passing).map(|it| it.tag).collect::<Vec<_>>()
    };
    // A version of what was named before, or another name.
    let beside = |tags: Vec<String>, names: Vec<String>| {
        tags.into_iter().map(|tag| format!("@{tag}")).chain(names).collect()
    };
    let object = |name: &str| name.split_once('@').map_or(name, |(object, _)| object).to_owned();
    let mut names: Vec<String> = match &place.kind {
        Kind::Vas => vases(),
        Kind::Segment => segments(),
        Kind::VasWithoutTag => without(vases()),
        Kind::SegmentWithoutTag => without(segments()),
        Kind::TagOfVas(of) => of_vas(of),
        Kind::TagOfSegment(of) => of_segment(of),
        Kind::Snapshot => snapshots::names(store),
        Kind::BesideVas(of) => beside(of_vas(&object(of)), vases()),
        Kind::BesideSegment(of) => beside(of_segment(&object(of)), segments()),
        // In no store.
        Kind::Vm => Vec::new(),
    };
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> Option<Kind> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        place(&words).map(|(place, _)| place.kind)
    }

    #[test]
    fn the_word_at_the_cursor_is_what_the_command_wants_there() {
        let of = |text: &str| text.to_owned();
        for (line, expected) in [
            ("vas show ", Some(Kind::Vas)),
            ("vas show bo", Some(Kind::Vas)),
            ("vas show books ", None),
            ("seg rm one tw", Some(Kind::Segment)),
            ("seg grow --size 1M ", Some(Kind::SegmentWithoutTag)),
            ("seg grow --size ", None),
            ("vas attach ", Some(Kind::VasWithoutTag)),
            ("vas attach books ", Some(Kind::Segment)),
            ("vas untag books ", Some(Kind::TagOfVas(of("books")))),
            ("seg rollback ledger mo", Some(Kind::TagOfSegment(of("ledger")))),
            ("seg diff ledger@1 @", Some(Kind::BesideSegment(of("ledger@1")))),
            ("vas export bo", Some(Kind::Vas)),
            ("vas create ", None),
            ("seg clone ledger ", None),
            ("run --vas ", Some(Kind::Vas)),
            ("run --timeout 3 --vas bo", Some(Kind::Vas)),
            ("run ./report", None),
            ("--log info vas show ", Some(Kind::Vas)),
            ("stop we", Some(Kind::Vm)),
            ("kill --signal HUP one ", Some(Kind::Vm)),
            ("kill --signal ", None),
            ("stats web ", None),
            ("ps ", None),
            ("snapshot we", Some(Kind::Vm)),
            ("snapshot web ", None),
            ("snapshot rm one wa", Some(Kind::Snapshot)),
            ("snapshot show ", Some(Kind::Snapshot)),
            ("run --from wa", Some(Kind::Snapshot)),
            ("vas show --js", None),
            ("vas", None),
            ("nothing at all", None),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in ["vas --store /a show bo", "--log info vas show --store=/a bo"] {
            let words = words(line);
            let (place, typed) = place(&words).expect("a place");
            assert_eq!((place.store, typed), (Some(PathBuf::from("/a")), "bo"), "{line}");
        }
    }
}
