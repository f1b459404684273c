//! What a user can do about each error of a store, as the command line prints it.

use spacejmp_host::error::Remedy;
use spacejmp_versions::VersionsError;

use crate::format::error::{Busy, Object, StoreError, is_full};
use crate::format::name::NameError;

impl Remedy for StoreError {
    fn remedy(&self) -> Option<String> {
        match self {
            StoreError::NotAStore { .. } | StoreError::NoPlace => {
                Some("choose a store with --store DIR or SPACEJMP_STORE; `spacejmp vas create` makes one".into())
            }
            StoreError::NotFound(Object::Vas(_) | Object::VasName(_)) => {
                Some("`spacejmp vas ls` lists what there is".into())
            }
            StoreError::NotFound(Object::Snapshot(_)) => {
                Some("`spacejmp snapshot ls` lists the snapshots that there are".into())
            }
            StoreError::NotFound(_) | StoreError::NotAttached { .. } => {
                Some("`spacejmp seg ls` lists what there is, `vas show` what a VAS has".into())
            }
            StoreError::Exists(_) => Some("choose another name".into()),
            StoreError::NotOwner(_) => Some(
                "its owner can do it; `spacejmp seg clone` and `vas clone` copy what you may read".into(),
            ),
            StoreError::Name(NameError::At | NameError::Right(_)) => Some(
                "choose another name; `spacejmp vas import --as NAME` gives a VAS of an archive one".into(),
            ),
            StoreError::Denied { .. } => {
                Some("ask its owner to change its mode with `spacejmp seg chmod` or `vas chmod`".into())
            }
            StoreError::NoTag { object, .. } => Some(match object {
                Object::Vas(_) | Object::VasName(_) => "`spacejmp vas log` lists its tags".into(),
                _ => "`spacejmp seg log` lists its tags".into(),
            }),
            StoreError::NoVersions(_) => Some(
                "`spacejmp seg convert NAME --to versioned` makes one of its segments versioned".into(),
            ),
            StoreError::Passing(_) => Some(
                "keep it with `spacejmp vas tag NAME TAG --at NUMBER`, or copy it, without --share".into(),
            ),
            StoreError::NoNumbers(name) => Some(format!(
                "keep a version of all of them with `spacejmp vas tag {name} TAG`, or name a segment"
            )),
            StoreError::NoVasVersion { vas, .. } => {
                Some(format!("`spacejmp vas log {vas}` lists those that can be opened"))
            }
            StoreError::NotThen { vas, segment, .. } => Some(format!(
                "take it out of the VAS first: `spacejmp vas detach {vas} {segment}`"
            )),
            StoreError::Unsound { segment } => Some(format!(
                "look at its content, then declare it whole: `spacejmp seg recover {segment}`"
            )),
            StoreError::Kept { segment } => Some(format!(
                "make a copy of it to write to: `spacejmp seg clone {segment} NEW`"
            )),
            StoreError::Busy { why: Busy::Listed(names), .. } => {
                let name = names.first()?;
                Some(format!("detach it first: `spacejmp vas detach`, from VAS '{name}'"))
            }
            StoreError::Locked { .. } => {
                Some("try again when it is free, or wait longer with --timeout".into())
            }
            StoreError::Busy { why: Busy::OtherRoot(_), .. } => Some(
                "try again when those programs have ended, or make a copy of it: `spacejmp seg clone \
                 NAME@VERSION NEW`"
                    .into(),
            ),
            StoreError::Busy { why: Busy::WithoutLease(path), .. } => Some(format!(
                "try again when it has ended; `fuser {}` says which process it is",
                path.display()
            )),
            StoreError::Busy { .. } => Some("try again when those programs have ended".into()),
            StoreError::BadField { .. } => Some(
                "keep a copy of the file, whose other content may be whole, and restore it from a \
                 backup or archive; other objects are unaffected"
                    .into(),
            ),
            StoreError::Newer { .. } => {
                Some("use that version of spacejmp or a later one; the file is whole".into())
            }
            StoreError::Foreign { .. } => {
                Some("use it on such a machine; the file is whole".into())
            }
            StoreError::NotA { kind, .. } => Some(format!("name {kind}, or restore the file from a backup")),
            StoreError::Short { file, expected_bytes, .. } => Some(format!(
                "an interrupted growth or an incomplete copy leaves it so. After a growth nothing \
                 that was stored is missing, and `truncate --size={expected_bytes} {}` makes it \
                 usable (what is added reads as zeros); otherwise copy it again",
                file.display()
            )),
            StoreError::Truncated { .. } => {
                Some("export or copy it again; nothing was changed in the store".into())
            }
            StoreError::Lost { vas, sid, segment } => Some(format!(
                "restore segments/{segment} from a backup, or remove it from the VAS with `spacejmp vas detach \
                 {vas} {sid}`"
            )),
            StoreError::Ambiguous { vas, .. } => {
                Some(format!("name one by its id: `spacejmp vas detach {vas} ID`"))
            }
            StoreError::Overlap { .. } => {
                Some("put it into another VAS, or create it again with another base".into())
            }
            StoreError::LockHeld { .. } => Some(
                "end that process, or wait for it; any process that can read the file can hold its lock"
                    .into(),
            ),
            StoreError::NoRoom { .. } => Some("give a base, or a smaller reserve".into()),
            StoreError::Copy { .. } => {
                Some("have a user who may write it use it once: it then gets its own id".into())
            }
            StoreError::PartMissing { .. } => {
                Some("copy segments with `spacejmp seg clone` or `vas export`".into())
            }
            StoreError::VersionsMissing { folder, .. } => Some(format!(
                "copy it together with {}, while no program has it attached, or restore both from a backup",
                folder.display()
            )),
            StoreError::VersionedCopy { file, original } => Some(format!(
                "remove {}; segment '{original}' is unaffected",
                file.display()
            )),
            StoreError::Versions { source: VersionsError::Io { source, .. }, .. } => {
                is_full(source).then(|| "free space on the store's disk".into())
            }
            StoreError::NoVersion { segment, .. }
            | StoreError::Versions { segment, source: VersionsError::Gone { .. } } => Some(format!(
                "`spacejmp seg log {segment}` lists those that can be opened"
            )),
            StoreError::Versions { segment, source: VersionsError::Failed { .. } } => Some(format!(
                "have a program enter segment '{segment}' to write: it writes anew what is not durable. \
                 If that fails as well, look at the disk (`dmesg`)"
            )),
            StoreError::Versions { source: error @ VersionsError::Companion { .. }, .. }
                if error.is_denied() =>
            {
                Some("have a user who may read both segments open this one first".into())
            }
            StoreError::Versions { source: VersionsError::Damaged { .. }, .. } => Some(
                "restore the segment's file and folder from a backup; other objects are unaffected"
                    .into(),
            ),
            StoreError::Io { source, .. } => match source.raw_os_error()? {
                libc::EMFILE => Some("raise the limit of open files (`ulimit -n`)".into()),
                libc::ENOSPC | libc::EDQUOT => Some("free space on the store's disk".into()),
                libc::EFBIG => Some(
                    "raise the limit of file sizes (`ulimit -f`), or use a file system that allows \
                     files of 8 TiB"
                        .into(),
                ),
                _ => None,
            },
            _ => None,
        }
    }
}
