//! Running VMs: `spacejmp ps`, `top`, `stats`, `trace`, `gdb`, `stop` and `kill`.
//!
//! - [`ps`], [`stats`], [`top`], [`trace`]: looking; `seen`: reading what a VM told of itself; `text`: that for
//!   people; `metrics`: for Prometheus, which may ask `metrics_listen`
//! - [`gdb`]: debugging one
//! - `signal`: ending them

pub(crate) mod gdb;
mod metrics;
mod metrics_listen;
pub(crate) mod ps;
mod seen;
pub(crate) mod signal;
pub(crate) mod stats;
mod text;
pub(crate) mod top;
pub(crate) mod trace;

use std::io;

use vmm::control::{Control, ControlError, VmName};
use vmm::error::Remedy;
use vmm::exit_code::ExitCode;

use crate::errors::Failure;

/// The exit status where a VM does not run, or not any more.
const GONE: ExitCode = ExitCode::Program(1);
/// Where it is another user's.
const NOT_YOURS: ExitCode = ExitCode::Program(3);

/// The same for the help of each command.
pub(crate) const STATUS_HELP: &str = "\
Exit status:
  0      done
  1      there is no such VM, or not any more
  3      it is another user's
  125    it could not be reached, or the command line is wrong";

pub(crate) fn failed(doing: impl Into<String>) -> impl FnOnce(ControlError) -> Failure {
    move |error| {
        let code = match error {
            ControlError::Gone { .. } => GONE,
            ControlError::NotYours { .. } => NOT_YOURS,
            _ => ExitCode::OwnFailure,
        };
        Failure::with_remedy(doing, error).code(code)
    }
}

/// A name is taken.
#[derive(Debug, thiserror::Error)]
#[error("another VM runs by that name")]
struct Taken;

impl Remedy for Taken {
    fn remedy(&self) -> Option<String> {
        Some("`spacejmp ps --all` shows it, `spacejmp stop NAME` ends it".to_owned())
    }
}

/// Lets others look at this process, by its number and as `name`. Only who asked for a name minds if that
/// is impossible.
pub(crate) fn listen(name: Option<VmName>) -> Result<Option<Control>, Failure> {
    let doing = name.as_ref().map(|name| format!("call the VM {name}"));
    match (Control::listen(name), doing) {
        (Ok(control), _) => Ok(Some(control)),
        (Err(error), Some(doing)) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(Failure::with_remedy(doing, Taken))
        }
        (Err(error), Some(doing)) => Err(Failure::new(doing, error)),
        (Err(error), None) => {
            tracing::info!(%error, "`spacejmp ps` cannot show this VM");
            Ok(None)
        }
    }
}
