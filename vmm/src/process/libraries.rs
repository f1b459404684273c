//! What a dynamic program is shown without being granted it: the directories in which every
//! loader looks by itself, and of its own folder what its RUNPATH names. Read-only; told with
//! `--log info`; `--no-libs` withholds all of it.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::executable::{Contents, Opened};
use crate::files::{Grant, GrantAccess};

/// Where the loaders of glibc and musl look if nothing tells them otherwise, with the directories
/// for one architecture below; and the links through which distributions choose one of several
/// libraries of a name.
const STANDARD: [&str; 6] =
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/alternatives"];
/// Where glibc's loader has a list of the libraries in them.
pub(super) const LIST: &str = "/etc/ld.so.cache";

/// The directories that are shown to a dynamic program, of those that the host has. Where a grant
/// decides what is at such a path, it stays so.
pub(super) fn grants(opened: &Opened, given: &[Grant]) -> Vec<Grant> {
    let program = Path::new(OsStr::from_bytes(&opened.path));
    let standard = STANDARD.iter().map(PathBuf::from);
    let named = match &opened.contents {
        Contents::Program(image) => image.library_path.as_deref().unwrap_or_default(),
        Contents::Script { .. } => &[],
    };
    let own = program.parent().map(|folder| beside(folder, named)).unwrap_or_default();
    let mut shown: Vec<Grant> = Vec::new();
    for dir in standard.chain(own) {
        let decided = |grant: &Grant| dir.starts_with(&grant.guest);
        if dir.is_dir() && !given.iter().any(decided) && !shown.iter().any(decided) {
            shown.push(Grant { host: dir.clone(), guest: dir, access: GrantAccess::ReadOnly });
        }
    }
    let list: Vec<String> = shown.iter().map(|grant| grant.guest.display().to_string()).collect();
    tracing::info!(
        "{} is dynamically linked: it may read {} (--no-libs withholds them)",
        program.display(),
        list.join(", ")
    );
    shown
}

/// The directories in a RUNPATH that begin with `$ORIGIN`, as far as they may be shown.
fn beside(folder: &Path, library_path: &[u8]) -> Vec<PathBuf> {
    let parts = library_path.split(|byte| *byte == b':');
    let of_origin = parts.filter_map(|part| {
        let rest = part.strip_prefix(b"$ORIGIN").or_else(|| part.strip_prefix(b"${ORIGIN}"))?;
        matches!(rest.first(), None | Some(b'/')).then_some(rest)
    });
    let home = std::env::home_dir().and_then(|home| std::fs::canonicalize(home).ok());
    let mut found = Vec::new();
    for rest in of_origin {
        let text = String::from_utf8_lossy(rest).into_owned();
        match beside_one(folder, rest).filter(|dir| is_harmless(dir, home.as_deref())) {
            Some(dir) => found.push(dir),
            None => tracing::info!(
                "not shown: $ORIGIN{text} of the program's RUNPATH; grant it with --dir if it is needed"
            ),
        }
    }
    found
}

/// A file says what its RUNPATH is, so it must not open just anything around it: only the folder,
/// what is below, and `../lib`, `../lib64`, `../libexec/x` and their like, as in an installed tree.
fn beside_one(folder: &Path, rest: &[u8]) -> Option<PathBuf> {
    let rest = Path::new(OsStr::from_bytes(rest.strip_prefix(b"/").unwrap_or(rest)));
    let mut parts = rest.components().filter(|part| *part != Component::CurDir).peekable();
    let mut dir = folder.to_owned();
    if parts.next_if_eq(&Component::ParentDir).is_some() {
        let Some(Component::Normal(name)) = parts.peek() else { return None };
        if !name.as_bytes().starts_with(b"lib") || !dir.pop() {
            return None;
        }
    }
    for part in parts {
        let Component::Normal(name) = part else { return None };
        dir.push(name);
    }
    // A link must not lead elsewhere.
    (std::fs::canonicalize(&dir).ok()? == dir).then_some(dir)
}

/// Whether a directory holds neither the user's home nor everything.
fn is_harmless(dir: &Path, home: Option<&Path>) -> bool {
    dir.parent().is_some() && !home.is_some_and(|home| home.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{beside, beside_one, is_harmless};

    #[test]
    fn a_runpath_shows_the_programs_own_folder_and_installed_trees_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(top.path()).unwrap();
        for dir in ["bin/plugins", "lib/x", "secrets"] {
            std::fs::create_dir_all(top.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink(top.join("secrets"), top.join("bin/link")).unwrap();
        let bin = top.join("bin");
        let shown = |rest: &str| beside_one(&bin, rest.as_bytes());
        assert_eq!(shown(""), Some(bin.clone()));
        assert_eq!(shown("/"), Some(bin.clone()));
        assert_eq!(shown("/./plugins"), Some(bin.join("plugins")));
        assert_eq!(shown("/../lib"), Some(top.join("lib")));
        assert_eq!(shown("/../lib/x"), Some(top.join("lib/x")));
        for hidden in [
            "/..",
            "/../secrets",
            "/../../x",
            "/plugins/../../secrets",
            "/../lib/..",
            "/link",
            "/none",
        ] {
            assert_eq!(shown(hidden), None, "{hidden}");
        }
        let text = b"/usr/lib:$ORIGIN/../lib:${ORIGIN}:$ORIGINAL:$ORIGIN/../secrets";
        assert_eq!(beside(&bin, text), [top.join("lib"), bin]);
    }

    #[test]
    fn the_users_home_and_what_is_above_are_never_shown() {
        let home = PathBuf::from("/home/user");
        let harmless = |dir: &str| is_harmless(Path::new(dir), Some(&home));
        assert!(!harmless("/") && !harmless("/home") && !harmless("/home/user"));
        assert!(harmless("/home/user/bin") && harmless("/opt/tool"));
    }
}
