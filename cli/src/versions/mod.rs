//! `log`, `tag`, `untag` and `rollback`: the versions of a segment, or of a VAS with such
//! segments. `vas` and `seg` have the same commands.

mod diff;
pub(crate) mod log;
mod names;

use clap::Subcommand;
use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::store::{Name, Store, StoreError, TagName, VersionChoice};
use vmm::vas::{VasError, kept};

use crate::errors::{self, Failure};
use crate::store_options::{Named, Waits, failed, name_parser, waiting_note};
use crate::store_show::plain;
pub(crate) use names::{chosen_segment, chosen_vas};
use names::{tag_parser, version_parser};

/// What a command is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Of {
    /// A VAS, by its name.
    Vas,
    /// A segment.
    Segment,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List versions, the newest first: number, time, program, tags
    #[command(after_help = "\
Examples:
  spacejmp seg log ledger
  spacejmp vas log books
  spacejmp seg log ledger --json | jq '.versions[0].number'

Listed is what the logs have, which go with a checkpoint, and what has a tag. A version with `no`
under OPENS is gone: only those from the newest checkpoint on and the tagged ones can be opened.
A VAS has numbers of its own, one for each commit through it. SEGMENTS says what its versioned segments
were at then, also those that the commit left alone.")]
    Log(Named),
    Tag(Tag),
    Untag(Untag),
    Diff(diff::Diff),
    Rollback(Rollback),
}

/// Keep a version under a name, for ever, as NAME@TAG, which can be attached to be read
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg tag ledger before-import
  spacejmp seg tag ledger monday --at 1207      not the newest version
  spacejmp vas tag books monday                 all its versioned segments, at one moment
  spacejmp vas tag books monday --at 1207       what they had at a number of the VAS
  spacejmp run --vas books@monday ./report

It takes no time and no space until the segment changes, and waits until no program is in the
middle of a change. It is on stable storage when the command returns. A tag is any name but a
number. Raw segments of a VAS have no versions and are left out.")]
pub(crate) struct Tag {
    #[arg(value_parser = name_parser())]
    name: Name,
    /// What to call the version
    #[arg(value_parser = tag_parser())]
    tag: TagName,
    /// The number of the version; without it, the newest
    #[arg(long, value_name = "NUMBER")]
    at: Option<u64>,
    #[command(flatten)]
    waits: Waits,
}

/// Give up a tag; what only it had is gone
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg untag ledger before-import
  spacejmp vas untag books monday

It is refused while a program has it attached.")]
pub(crate) struct Untag {
    #[arg(value_parser = name_parser())]
    name: Name,
    /// The tag
    #[arg(value_parser = name_parser())]
    tag: Name,
}

/// Make an old version the newest, under the next number
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg rollback ledger before-import
  spacejmp seg rollback ledger 1207
  spacejmp vas rollback books monday
  spacejmp vas rollback books 1207

It takes no time. Programs that have it attached see it when they enter next. The versions in
between stay in the log until a checkpoint: to undo a rollback, roll back to the one before it.
To a version with another root object it is refused while a program has the segment attached.

A VAS with several versioned segments goes back to a tag or a number of the VAS, as one change: after a kill
or a power cut all of them have gone back, or none. The pages that differ are written for it, up to 63 MiB
of each segment.")]
pub(crate) struct Rollback {
    #[arg(value_parser = name_parser())]
    name: Name,
    /// Its number, or a tag
    #[arg(value_parser = version_parser())]
    version: VersionChoice,
    #[command(flatten)]
    waits: Waits,
}

pub(crate) fn run(of: Of, store: &Store, command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Log(args) => log::log(of, store, &args.name, args.output.json),
        Command::Tag(args) => tag(of, store, args),
        Command::Untag(args) => untag(of, store, args),
        Command::Diff(args) => diff::diff(of, store, args),
        Command::Rollback(args) => rollback(of, store, args),
    }
}

/// A version, as commands that make one report it.
#[derive(Debug, Serialize)]
struct Made {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
}

impl Made {
    fn text(&self) -> String {
        match (&self.tag, self.number) {
            (None, Some(number)) => {
                format!("version {number} of '{}' is the newest\n", plain(&self.name))
            }
            _ => String::new(),
        }
    }

    fn print(&self, json: bool) -> Result<ExitCode, Failure> {
        errors::output(json, self, |_| self.text())
    }
}

/// What became the newest of a VAS with several versioned segments.
#[derive(Debug, Serialize)]
struct RolledBack<'a> {
    name: &'a str,
    /// Of the VAS.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    segments: &'a [Made],
}

fn tag(of: Of, store: &Store, args: &Tag) -> Result<ExitCode, Failure> {
    let (name, tag) = (&args.name, &args.tag);
    let doing = || format!("keep a version of '{name}' as '{tag}'");
    let made = |number| Made {
        name: format!("{}@{}", name.as_str(), tag.as_str()),
        tag: Some(tag.as_str().to_owned()),
        number,
    };
    match of {
        Of::Segment => {
            let sid = store.find_segment(name).map_err(failed(doing()))?;
            let stopping = waiting_note();
            let kept = kept::tag_segment(store, sid, args.at, tag, args.waits.timeout, &stopping);
            made(Some(kept.map_err(failed(doing()))?)).print(args.waits.output.json)
        }
        Of::Vas => {
            let vid = store.find_vas(name).map_err(failed(doing()))?;
            note_raw(store, name).map_err(failed(doing()))?;
            let kept = kept::tag_vas(store, vid, args.at, tag, args.waits.timeout, &waiting_note());
            kept.map_err(failed(doing()))?;
            made(args.at).print(args.waits.output.json)
        }
    }
}

/// Says which segments of a VAS have no versions.
pub(crate) fn note_raw(store: &Store, name: &Name) -> Result<(), StoreError> {
    let segments = store.open_listed(&store.vas_named(name)?)?;
    let (raw, versioned): (Vec<_>, Vec<_>) = segments.iter().partition(|it| !it.is_versioned());
    if !raw.is_empty() && !versioned.is_empty() {
        let names: Vec<_> = raw.iter().map(|it| format!("'{}'", it.name())).collect();
        eprintln!("spacejmp: raw segments have no versions and are left out: {}", names.join(", "));
    }
    Ok(())
}

fn untag(of: Of, store: &Store, args: &Untag) -> Result<ExitCode, Failure> {
    let (name, tag) = (&args.name, args.tag.as_str());
    let doing = || format!("give up tag '{}' of '{name}'", args.tag);
    let removed = match of {
        Of::Segment => store.find_segment(name).and_then(|sid| store.remove_kept(sid, tag)),
        Of::Vas => store.find_vas(name).and_then(|_| {
            let tags = store.vas_tags(name)?;
            let found = tags.iter().find(|(other, _)| other == tag);
            match found {
                Some((_, vid)) => store.remove_kept_vas(*vid).map(drop),
                None => {
                    let object = vmm::store::Object::VasName(name.clone());
                    Err(StoreError::NoTag { object, tag: tag.to_owned() })
                }
            }
        }),
    };
    removed.map_err(failed(doing()))?;
    Ok(ExitCode::Program(0))
}

fn rollback(of: Of, store: &Store, args: &Rollback) -> Result<ExitCode, Failure> {
    let (name, to) = (&args.name, &args.version);
    let doing = || format!("make version {to} of '{name}' the newest");
    let stopping = waiting_note();
    let work = || -> Result<Vec<(Name, u64)>, VasError> {
        match of {
            Of::Segment => {
                let sid = store.find_segment(name)?;
                let number = kept::rollback_segment(store, sid, to, args.waits.timeout, &stopping)?;
                Ok(vec![(name.clone(), number)])
            }
            Of::Vas => {
                let vid = store.find_vas(name)?;
                kept::rollback_vas(store, vid, to, args.waits.timeout, &stopping)
            }
        }
    };
    let made = work().map_err(failed(doing()))?.into_iter().map(|(segment, number)| {
        let name = segment.as_str().to_owned();
        Made { name, tag: None, number: Some(number) }
    });
    let (json, made) = (args.waits.output.json, made.collect::<Vec<_>>());
    match &made[..] {
        [only] => only.print(json),
        _ => {
            let number = store.vas_named(name).and_then(|vas| store.vas_number(&vas));
            let number = number.map_err(failed(doing()))?;
            let rolled = RolledBack { name: name.as_str(), number, segments: &made };
            errors::output(json, &rolled, |_| made.iter().map(Made::text).collect())
        }
    }
}
