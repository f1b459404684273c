//! What a program needs before it can run, without running it: `spacejmp doctor PROGRAM`.
//!
//! - here: the answer, and how it is put together
//! - `linked`: what an ELF file says of its libraries and of the functions that it imports
//! - `search`: where a dynamic loader would find a library
//! - [`calls`]: which calls a program contains that are not served
//!
//! What is visible is decided by the same name space that a run would get. What a program opens
//! while it runs (plug-ins, data, other programs) is in none of its tables and not known here.
#![forbid(unsafe_code)]

pub mod calls;
mod linked;
mod search;

use std::collections::BTreeSet;

use object::ReadCache;
use serde::Serialize;

use super::StartError;
use super::config::RunConfig;
use super::executable::{self, Chosen, Parsed};
use super::start::namespace;
use crate::files::Files;
use linked::Linked;
use search::{Found, Search};

/// Libraries of a program, at most: a file that names more is not believed.
const LIBRARIES_MAX: usize = 4096;

/// What a program needs.
#[derive(Debug, Serialize)]
pub struct Needs {
    /// The file that runs, as the program would see it: of a script, its interpreter.
    pub executable: String,
    /// Of a script: what is run instead, the interpreter first.
    pub script: Option<Vec<String>>,
    /// The dynamic loader.
    pub loader: Option<String>,
    /// The libraries that the loader has to find.
    pub libraries: Vec<Library>,
    /// Calls that it contains and that are not served.
    pub calls_not_served: Vec<String>,
    /// It was built with AddressSanitizer or its like, which need addresses that a VM does not
    /// have.
    pub sanitizer: Option<String>,
}

/// A library.
#[derive(Debug, Serialize)]
pub struct Library {
    /// As the file that needs it names it.
    pub name: String,
    /// Which file needs it.
    pub needed_by: String,
    /// Where it is, as the program sees it, or where it is on the host if the program does not.
    pub path: Option<String>,
    /// Whether the program would see it.
    pub visible: bool,
}

impl Library {
    /// The option that makes it visible, if it is somewhere.
    #[must_use]
    pub fn grant(&self) -> Option<String> {
        let path = self.path.as_ref().filter(|_| !self.visible)?;
        let (dir, _) = path.rsplit_once('/')?;
        Some(format!("--dir {dir}:ro --env LD_LIBRARY_PATH={dir}"))
    }
}

impl Needs {
    /// What the program of `config` needs, of which nothing is started.
    ///
    /// # Errors
    /// [`StartError`] as a run would have it: no such file, no executable, no interpreter.
    pub fn of(config: RunConfig) -> Result<Needs, StartError> {
        let program = &config.command.program;
        let named = match config.root {
            None => Some(executable::open_on_host(program)?),
            Some(_) => None,
        };
        let (namespace, cwd) = namespace(&config, named.as_ref())?;
        let mut files = Files::new(namespace, config.stdio, &cwd, config.umask)?;
        let named = match named {
            Some(named) => named,
            None => executable::open_inside(program, &config.env, &files)?,
        };
        let chosen = executable::choose(&config.command, config.libraries, named, &mut files)?;
        let host_too = config.root.is_none();
        Ok(Needs::of_chosen(&chosen, &Search::new(&files, &config.env, host_too)))
    }

    fn of_chosen(chosen: &Chosen, search: &Search<'_>) -> Needs {
        let Chosen { program, loader, args } = chosen;
        let mut needs = Needs {
            executable: shown(&program.path),
            script: (args.len() > 1).then(|| args.iter().map(|arg| shown(arg)).collect()),
            loader: loader.as_ref().map(|loader| shown(&loader.path)),
            libraries: Vec::new(),
            calls_not_served: Vec::new(),
            sanitizer: None,
        };
        let mut calls = BTreeSet::new();
        // A loader has found itself.
        let own_name =
            |loader: &Parsed| loader.path.rsplit(|b| *b == b'/').next().map(<[u8]>::to_vec);
        let mut known: BTreeSet<Vec<u8>> = loader.iter().filter_map(own_name).collect();
        let mut left = vec![(program.path.clone(), program.file.clone())];
        while let Some((path, file)) = left.pop() {
            let linked = Linked::of(&ReadCache::new(&*file));
            let is_dynamic = loader.is_some();
            let sanitizer = linked.sanitizer().map(str::to_owned);
            needs.sanitizer = needs.sanitizer.take().or(sanitizer);
            // Libraries of the system can do more than this program asks of them.
            let is_own = path == program.path || !search::is_systems(&path);
            match is_dynamic {
                true if is_own => calls.extend(linked.calls()),
                true => {}
                false => calls.extend(calls::in_code(&ReadCache::new(&*file), &program.image)),
            }
            for name in &linked.needed {
                if known.len() >= LIBRARIES_MAX || !known.insert(name.clone()) {
                    continue;
                }
                let found = search.library(name, &path, &linked);
                let (at, visible) = match &found {
                    Found::Visible { path, .. } => (Some(shown(path)), true),
                    Found::OnHost(path) => (Some(path.display().to_string()), false),
                    Found::Nowhere => (None, false),
                };
                let (name, needed_by) = (shown(name), shown(&path));
                needs.libraries.push(Library { name, needed_by, path: at, visible });
                if let Found::Visible { path, file } = found {
                    left.push((path, file));
                }
            }
        }
        needs.calls_not_served = calls.into_iter().map(str::to_owned).collect();
        needs
    }

    /// Whether a run would get as far as the program's own code.
    #[must_use]
    pub fn are_met(&self) -> bool {
        self.sanitizer.is_none() && self.libraries.iter().all(|library| library.visible)
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
