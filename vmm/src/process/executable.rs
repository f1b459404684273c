//! Which files run when the user names a program: the program itself, or for a script its
//! interpreter, and the dynamic loader that it asks for. As `execve` decides it (execve(2),
//! fs/binfmt_script.c, fs/binfmt_elf.c), with one difference: interpreter and loader are looked up
//! among what the program may see, so that a file's first bytes open nothing that was not granted.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::Errno;
use object::ReadCache;

use super::StartError;
use super::config::{Command, Libraries};
use super::text_busy;
use crate::files::{Files, ToExecute};
use crate::guest::elf::{self, ElfError, Image};
use crate::linux::children::exec::{ChosenProgram, Wanted};

/// What Linux reads of a file to decide (BINPRM_BUF_SIZE): the longest first line of a script.
const HEAD_BYTES: usize = 256;
/// Interpreters that are scripts themselves, one after the other, at most.
const SCRIPTS_MAX: usize = 5;

/// What a file turns out to be.
pub(super) enum Contents {
    /// An ELF executable.
    Program(Image),
    /// A script: the interpreter that its first line names, with the argument there.
    Script {
        /// The interpreter's path.
        interpreter: Vec<u8>,
        /// The rest of the line.
        argument: Option<Vec<u8>>,
    },
}

/// A file that was opened to be run.
pub(super) struct Opened {
    /// As the program sees it.
    pub(super) path: Vec<u8>,
    pub(super) file: Arc<File>,
    pub(super) contents: Contents,
}

/// A file that is to be mapped.
pub(super) struct Parsed {
    /// As the program sees it.
    pub(super) path: Vec<u8>,
    pub(super) file: Arc<File>,
    pub(super) image: Image,
}

/// All that runs.
pub(super) struct Chosen {
    pub(super) program: Parsed,
    /// The dynamic loader, if it asks for one.
    pub(super) loader: Option<Parsed>,
    /// The arguments, the program's name first; a script's interpreter gets more.
    pub(super) args: Vec<Vec<u8>>,
}

/// Why an interpreter or loader that a file asks for cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterpreterError {
    /// It is not among what the program may see, or may not be executed.
    #[error("it needs {interpreter}")]
    Open {
        /// Its path.
        interpreter: String,
        /// Why it cannot be opened there.
        #[source]
        source: Errno,
    },
    /// Libraries are withheld.
    #[error("it needs {interpreter} and its libraries, which --no-libs withholds")]
    Withheld {
        /// The loader's path.
        interpreter: String,
    },
    /// It is no program.
    #[error("it needs {interpreter}, which cannot run")]
    Elf {
        /// Its path.
        interpreter: String,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// The first line of a script names none.
    #[error("its first line names no interpreter, or is longer than {} bytes", HEAD_BYTES - 1)]
    NoName,
    /// Scripts that interpret each other.
    #[error("its interpreter is a script, whose interpreter is a script, {SCRIPTS_MAX} times")]
    TooManyScripts,
}

impl Chosen {
    /// Refuses a program that cannot run with the addresses that there are, rather than let it find out.
    ///
    /// # Errors
    /// [`StartError::Elf`].
    pub(super) fn check_addresses(&self) -> Result<(), StartError> {
        let Some(name) = self.program.image.sanitizer else { return Ok(()) };
        let source = ElfError::Sanitizer { name };
        Err(StartError::Elf { program: shown(&self.program.path), source })
    }
}

impl InterpreterError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            InterpreterError::Open { interpreter, source } => Some(open_remedy(interpreter, *source)),
            InterpreterError::Withheld { .. } => Some(
                "leave --no-libs out, give a tree that has them with --root DIR, or link the program \
                 statically (Rust: RUSTFLAGS='-C target-feature=+crt-static'; C: -static)"
                    .into(),
            ),
            InterpreterError::Elf { source, .. } => source.remedy(),
            InterpreterError::NoName => {
                Some("begin it with #! and the interpreter's path, as in #!/bin/sh".into())
            }
            InterpreterError::TooManyScripts => None,
        }
    }
}

fn open_remedy(interpreter: &str, source: Errno) -> String {
    let host = Path::new(interpreter);
    match host.parent() {
        Some(dir) if source == Errno::ENOENT && host.is_file() => format!(
            "the program may not see it: grant it with --dir {}:ro, or the whole tree with --root /",
            dir.display()
        ),
        _ if source == Errno::ENOENT => {
            "install it on the host, or give a tree that has it with --root DIR".into()
        }
        _ => "it has to be a file that this user may execute".into(),
    }
}

/// Why a file is neither a program nor a script.
enum Unfit {
    Elf(ElfError),
    Line(InterpreterError),
}

impl Unfit {
    /// Of the file that the user named.
    fn named(self, program: &str) -> StartError {
        let program = program.to_owned();
        match self {
            Unfit::Elf(source) => StartError::Elf { program, source },
            Unfit::Line(source) => StartError::Interpreter { program, source },
        }
    }

    /// Of an interpreter.
    fn interpreter(self, path: &[u8]) -> InterpreterError {
        match self {
            Unfit::Elf(source) => InterpreterError::Elf { interpreter: shown(path), source },
            Unfit::Line(error) => error,
        }
    }
}

impl Contents {
    fn of(file: &File) -> Result<Contents, Unfit> {
        let head = head(file).map_err(|error| Unfit::Elf(ElfError::Read(error)))?;
        let Some(line) = head.strip_prefix(b"#!") else {
            return elf::parse(&ReadCache::new(file)).map(Contents::Program).map_err(Unfit::Elf);
        };
        let (name, argument) = first_line(line).ok_or(Unfit::Line(InterpreterError::NoName))?;
        let argument = argument.map(<[u8]>::to_vec);
        Ok(Contents::Script { interpreter: name.to_vec(), argument })
    }

    /// Whether a dynamic loader runs it; a script has its interpreter's, as it is on the host.
    pub(super) fn is_dynamic(&self) -> bool {
        match self {
            Contents::Program(image) => image.interpreter.is_some(),
            Contents::Script { interpreter, .. } => {
                let file = File::open(OsStr::from_bytes(interpreter));
                let image = file.ok().and_then(|file| elf::parse(&ReadCache::new(&file)).ok());
                image.is_some_and(|image| image.interpreter.is_some())
            }
        }
    }
}

/// The first bytes of a file; behind its end, zeros.
fn head(file: &File) -> std::io::Result<[u8; HEAD_BYTES]> {
    let mut bytes = [0; HEAD_BYTES];
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, len as u64)? {
            0 => break,
            read => len += read,
        }
    }
    Ok(bytes)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The name ends at a blank or NUL; what follows up to the end of the line is one argument, whatever
/// blanks are in it. A line without an end is taken if the name has one.
fn first_line(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let ends = |byte: &u8| matches!(byte, b'\n' | b'\0');
    let complete = text.iter().any(ends);
    let line = text.split(ends).next()?;
    let start = line.iter().position(|byte| !blank(byte))?;
    let (_, line) = line.split_at(start);
    let end = line.iter().position(blank);
    // Cut off, it would be another file's name.
    let end = if complete { end.unwrap_or(line.len()) } else { end? };
    let (name, rest) = line.split_at(end);
    let from = rest.iter().position(|byte| !blank(byte)).unwrap_or(rest.len());
    let to = rest.iter().rposition(|byte| !blank(byte)).map_or(from, |last| last + 1);
    let argument = rest.get(from..to).filter(|argument| !argument.is_empty());
    Some((name, argument))
}

/// Opens the named program on the host.
pub(super) fn open_on_host(program: &Path) -> Result<Opened, StartError> {
    let name = program.display().to_string();
    let open = |source| StartError::Open { program: name.clone(), source };
    let file = Arc::new(File::open(program).map_err(open)?);
    if file.metadata().map_err(open)?.is_dir() {
        return Err(open(std::io::Error::from_raw_os_error(libc::EISDIR)));
    }
    let path = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let contents = Contents::of(&file).map_err(|unfit| unfit.named(&name))?;
    Ok(Opened { path: path.into_os_string().into_vec(), file, contents })
}

/// Where shells look if the environment has no PATH.
const USUAL_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Opens the named program in the program's own tree: a name without a slash is looked up in the
/// program's own PATH.
pub(super) fn open_inside(
    program: &Path,
    env: &[Vec<u8>],
    files: &Files,
) -> Result<Opened, StartError> {
    let name = program.as_os_str().as_bytes();
    let open = |errno: Errno| StartError::Open {
        program: program.display().to_string(),
        source: std::io::Error::from_raw_os_error(errno.raw()),
    };
    let found = match name.contains(&b'/') {
        true => files.open_to_execute(name),
        false => search(name, env, files),
    };
    let ToExecute { path, file } = found.map_err(open)?;
    let contents = Contents::of(&file);
    let contents = contents.map_err(|unfit| unfit.named(&program.display().to_string()))?;
    Ok(Opened { path, file, contents })
}

fn search(name: &[u8], env: &[Vec<u8>], files: &Files) -> Result<ToExecute, Errno> {
    let path = env.iter().find_map(|line| line.strip_prefix(b"PATH=")).unwrap_or(USUAL_PATH);
    let mut refused = Errno::ENOENT;
    for dir in path.split(|byte| *byte == b':').filter(|dir| !dir.is_empty()) {
        match files.open_to_execute(&[dir, b"/", name].concat()) {
            Err(Errno::EACCES) => refused = Errno::EACCES,
            Err(_) => {}
            found => return found,
        }
    }
    Err(refused)
}

/// Decides what runs, and sets `/proc/self/exe`.
///
/// # Errors
/// [`StartError::Elf`] and [`StartError::Interpreter`].
pub(super) fn choose(
    command: &Command,
    libraries: Libraries,
    named: Opened,
    files: &mut Files,
) -> Result<Chosen, StartError> {
    let interpreter = |source| {
        let program = command.program.display().to_string();
        StartError::Interpreter { program, source }
    };
    let given = command.program.as_os_str().as_bytes();
    let mut args = vec![command.argv0.clone().unwrap_or_else(|| given.to_vec())];
    args.extend(command.args.iter().cloned());
    let mut opened = named;
    // What a script's interpreter is told to read: as given, if that leads there from where the
    // program starts.
    let mut name = given.to_vec();
    for _ in 0..=SCRIPTS_MAX {
        let Opened { path, file, contents } = opened;
        let (by, argument) = match contents {
            Contents::Program(image) => {
                files.set_executable(&path, file.clone());
                let loader = loader(libraries, &image, files).map_err(interpreter)?;
                return Ok(Chosen { program: Parsed { path, file, image }, loader, args });
            }
            Contents::Script { interpreter, argument } => (interpreter, argument),
        };
        files.show(&path, file);
        if files.faccessat2(libc::AT_FDCWD, &name, libc::R_OK.cast_unsigned(), 0).is_err() {
            name = path;
        }
        let mut now = vec![by.clone()];
        now.extend(argument);
        now.push(name);
        args.splice(..1, now);
        let ToExecute { path, file } = open(files, &by).map_err(interpreter)?;
        let contents = Contents::of(&file).map_err(|unfit| interpreter(unfit.interpreter(&by)))?;
        opened = Opened { path, file, contents };
        name = by;
    }
    Err(interpreter(InterpreterError::TooManyScripts))
}

/// What takes the place of a running program: looked up among what `caller`'s program may see, its own
/// file included, for a program with `files`.
///
/// # Errors
/// Those of `execve`.
pub(super) fn choose_next(
    wanted: Wanted,
    caller: &Files,
    files: &mut Files,
) -> Result<ChosenProgram, Errno> {
    let Wanted { dirfd, path, follow, args } = wanted;
    let ToExecute { path: found, file } = caller.open_to_execute_at(dirfd, &path, follow)?;
    text_busy::check(&file)?;
    let contents = Contents::of(&file).map_err(|unfit| errno_of(&unfit.named("")))?;
    let mut args = args.into_iter();
    let command = Command {
        program: PathBuf::from(OsString::from_vec(path)),
        argv0: args.next(),
        args: args.collect(),
    };
    let named = Opened { path: found, file, contents };
    let chosen = choose(&command, Libraries::Shown, named, files);
    let chosen = chosen.map_err(|error| errno_of(&error))?;
    if let Err(error) = chosen.check_addresses() {
        tracing::warn!("{}", crate::error::chain(&error));
        return Err(errno_of(&error));
    }
    let Chosen { loader, args, program } = chosen;
    // A script's interpreter; once more for a program.
    text_busy::check(&program.file)?;
    Ok(ChosenProgram { args, loader: loader.map(|loader| loader.file) })
}

/// The files of a program that has been chosen, read again: by the VMM that runs it.
///
/// # Errors
/// They have changed since.
pub(super) fn parse_chosen(
    files: &Files,
    loader: Option<Arc<File>>,
    name: &str,
) -> Result<(Parsed, Option<Parsed>), StartError> {
    let parse = |file: Arc<File>| {
        let image = elf::parse(&ReadCache::new(&*file));
        let bad = |source| StartError::Elf { program: name.to_owned(), source };
        let path = name.as_bytes().to_vec();
        Ok::<_, StartError>(Parsed { path, image: image.map_err(bad)?, file })
    };
    let file = files.executable().ok_or_else(|| StartError::Open {
        program: name.to_owned(),
        source: std::io::Error::from_raw_os_error(libc::ENOENT),
    })?;
    Ok((parse(file)?, loader.map(parse).transpose()?))
}

fn errno_of(error: &StartError) -> Errno {
    const ENOEXEC: Errno = Errno::from_raw(libc::ENOEXEC);
    match error {
        StartError::Interpreter { source, .. } => match source {
            InterpreterError::Open { source, .. } => *source,
            InterpreterError::Withheld { .. } => Errno::ENOENT,
            InterpreterError::Elf { .. } => Errno::from_raw(libc::ELIBBAD),
            InterpreterError::NoName => ENOEXEC,
            InterpreterError::TooManyScripts => Errno::ELOOP,
        },
        // There are no such addresses. With ENOEXEC a shell would take it for a script.
        StartError::Elf { source: ElfError::Sanitizer { .. }, .. } => Errno::ENOMEM,
        _ => ENOEXEC,
    }
}

fn open(files: &Files, path: &[u8]) -> Result<ToExecute, InterpreterError> {
    let found = files.open_to_execute(path);
    found.map_err(|source| InterpreterError::Open { interpreter: shown(path), source })
}

fn loader(
    libraries: Libraries,
    image: &Image,
    files: &Files,
) -> Result<Option<Parsed>, InterpreterError> {
    let Some(path) = &image.interpreter else { return Ok(None) };
    let found = match open(files, path) {
        Err(InterpreterError::Open { interpreter, source: Errno::ENOENT })
            if libraries == Libraries::Withheld =>
        {
            return Err(InterpreterError::Withheld { interpreter });
        }
        found => found?,
    };
    let image = elf::parse(&ReadCache::new(&*found.file))
        .map_err(|source| InterpreterError::Elf { interpreter: shown(path), source })?;
    Ok(Some(Parsed { path: path.clone(), file: found.file, image }))
}

#[cfg(test)]
mod tests {
    use super::{HEAD_BYTES, first_line};

    /// What a file with this text names.
    fn line(text: &str) -> Option<(String, Option<String>)> {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let (name, argument) = first_line(bytes.strip_prefix(b"#!")?)?;
        let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some((string(name), argument.map(string)))
    }

    #[test]
    fn a_scripts_first_line_is_read_as_linux_reads_it() {
        let some = |name: &str, argument: Option<&str>| {
            Some((name.to_owned(), argument.map(str::to_owned)))
        };
        assert_eq!(line("#!/bin/sh\necho"), some("/bin/sh", None));
        assert_eq!(line("#! \t/bin/sh  -e -x \t\necho"), some("/bin/sh", Some("-e -x")));
        assert_eq!(line("#!/bin/sh"), some("/bin/sh", None));
        assert_eq!(line("#!python3\n"), some("python3", None));
        assert_eq!(line("#!\n/bin/sh"), None);
        assert_eq!(line("#!   "), None);
    }

    #[test]
    fn a_line_that_is_cut_off_counts_if_the_name_is_whole() {
        let long = "x".repeat(300);
        assert_eq!(first_line(&[b"/bin/", long.as_bytes()].concat()), None);
        let line = [b"/bin/sh ", long.as_bytes()].concat();
        let (name, argument) = first_line(&line).unwrap();
        assert_eq!(name, b"/bin/sh");
        assert!(argument.is_some());
    }
}
