//! `spacejmp run --profile` and `--profile-exits`: the files in which the profiles of a run are at its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmm::linux::profile::{Profiler, Sheet};
use vmm::report::profile::{self, Form};

use crate::errors::Failure;

/// Samples a second unless told otherwise: a prime, which no timer of a program is a multiple of. Where an exit takes
/// 66 us, a thread that computes is about 5 % slower for it.
pub(crate) const SAMPLES_A_SECOND: u32 = 499;
/// More would be asking more than running.
pub(crate) const SAMPLES_MAX: i64 = 10_000;

/// A file, and what is in it by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProfileFile {
    path: PathBuf,
    form: Form,
}

/// `--profile` and `--profile-exits`.
pub(crate) fn parse(text: &str) -> Result<ProfileFile, String> {
    let path = PathBuf::from(text);
    let form = match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => Form::Flame,
        Some("folded" | "txt") => Form::Folded,
        _ => {
            return Err(
                "name a file that ends in .svg, for a flame graph, or in .folded or .txt, \
                        for lines that other tools read"
                    .to_owned(),
            );
        }
    };
    Ok(ProfileFile { path, form })
}

/// The profiles of a run.
pub(crate) struct Profiles {
    time: Option<(ProfileFile, File)>,
    exits: Option<(ProfileFile, File)>,
    /// What is collected, if something is.
    pub(crate) profiler: Option<Arc<Profiler>>,
}

impl Profiles {
    /// Makes the files. They are opened now: what can be opened later is confined.
    pub(crate) fn prepare(
        time: Option<ProfileFile>,
        samples_a_second: u32,
        exits: Option<ProfileFile>,
    ) -> Result<Profiles, Failure> {
        if let (Some(time), Some(exits)) = (&time, &exits)
            && time.path == exits.path
        {
            let doing = format!("write {}", time.path.display());
            let error = std::io::Error::other("two profiles cannot be in one file");
            return Err(Failure::new(doing, error)
                .help(Some("give --profile and --profile-exits different files".to_owned())));
        }
        let is_any = time.is_some() || exits.is_some();
        let new = || Profiler::new(time.as_ref().map(|_| samples_a_second), exits.is_some());
        let profiler = is_any.then(new).transpose();
        let profiler = profiler.map_err(|error| Failure::new("prepare for a profile", error))?;
        let create = |file: ProfileFile| {
            let doing = || format!("create {}", file.path.display());
            let made = File::create(&file.path).map_err(|error| Failure::new(doing(), error))?;
            Ok((file, made))
        };
        let (time, exits) = (time.map(create).transpose()?, exits.map(create).transpose()?);
        Ok(Profiles { time, exits, profiler: profiler.map(Arc::new) })
    }

    /// Writes what all processes of the run have left, when they have ended.
    pub(crate) fn write(self, program: &Path) -> Result<(), Failure> {
        let Some(profiler) = &self.profiler else { return Ok(()) };
        let name = program.file_name().unwrap_or_default().display();
        if let (Some(to), Some((sheet, hz))) = (self.time, &profiler.time) {
            write(to, sheet, |all| format!("{name}: {all} samples, {hz} a second and thread"))?;
        }
        if let (Some(to), Some(sheet)) = (self.exits, &profiler.exits) {
            write(to, sheet, |all| format!("{name}: {all} exits"))?;
        }
        Ok(())
    }
}

fn write(
    (file, mut to): (ProfileFile, File),
    sheet: &Sheet,
    title: impl Fn(u64) -> String,
) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("write {}", file.path.display()), error);
    let lines = profile::lines(sheet).map_err(failed)?;
    let all = lines.values().fold(0, |all: u64, weight| all.saturating_add(*weight));
    profile::write(&lines, file.form, &title(all), &mut to).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{Form, Profiles, parse};

    #[test]
    fn the_end_of_the_name_says_what_is_in_the_file() {
        for (name, form) in
            [("a.svg", Form::Flame), ("/b/c.folded", Form::Folded), ("x.svg.txt", Form::Folded)]
        {
            assert_eq!(parse(name).unwrap().form, form);
        }
        for name in ["", "a", ".svg", "a.SVG", "a.json", "a.svg/"] {
            let error = parse(name).err();
            assert!(name == "a.svg/" || error.is_some_and(|it| it.contains(".folded")), "{name}");
        }
    }

    #[test]
    fn two_profiles_in_one_file_are_refused_before_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.txt");
        let file = || Some(parse(path.to_str().unwrap()).unwrap());
        assert!(Profiles::prepare(file(), 1, file()).is_err());
        assert!(!path.exists());
        let none = Profiles::prepare(None, 1, None).unwrap();
        assert!(none.profiler.is_none());
    }
}
