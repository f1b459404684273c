//! What can go wrong, and which exception of Python's says so. The classes are in
//! `spacejmp/_errors.py`.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use spacejmp::sys::Errno;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// No VM.
    #[error(
        "this Python does not run in a SpaceJMP VM, which address spaces need: start it by `spacejmp run \
         --root / --dir . python3 PROGRAM.py`"
    )]
    NotInVm,
    /// A call of SpaceJMP's failed.
    #[error("cannot {verb} space `{space}`: {errno}{}", hint(*.errno))]
    Call {
        /// What was to be done.
        verb: &'static str,
        /// To which space.
        space: String,
        /// Why it was not.
        errno: Errno,
    },
    /// The root object is not one of this package's.
    #[error(
        "the content of space `{space}` is no Python data: its root object is of another type, as other languages make them"
    )]
    WrongType {
        /// The space.
        space: String,
    },
    /// The space was never filled.
    #[error(
        "space `{space}` is empty: nobody has made its root object; open it without `create=False`"
    )]
    NoRoot {
        /// The space.
        space: String,
    },
    /// The space has no versions, so that nothing can be taken back.
    #[error("space `{space}` is not versioned: convert it by `spacejmp seg convert`")]
    NotVersioned {
        /// The space.
        space: String,
    },
    /// An address or number that cannot be right.
    #[error("space `{space}` is damaged, or was written by another program: {what} at {at:#x}")]
    Damaged {
        /// The space.
        space: String,
        /// What was expected there.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// Its segments or root object are others than when it was opened.
    #[error("space `{space}` was changed by a rollback or its VAS by a user: open it again")]
    Changed {
        /// The space.
        space: String,
    },
    /// A commit failed.
    #[error("the changes to space `{space}` cannot be stored, and are taken back: {errno}")]
    NotCommitted {
        /// The space.
        space: String,
        /// Why.
        errno: Errno,
    },
    /// No room in the segment or on the disk.
    #[error("space `{space}` has no room for {bytes} bytes more: {errno}")]
    NoRoom {
        /// The space.
        space: String,
        /// Bytes.
        bytes: u64,
        /// Why.
        errno: Errno,
    },
    /// A visit was used where it cannot be.
    #[error("{0}")]
    Visit(String),
    /// A view was to be changed.
    #[error("space `{space}` is only being read: change it in `with space.write() as ...`")]
    ReadOnly {
        /// The space.
        space: String,
    },
}

/// What helps, for numbers whose text does not say it.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EBUSY => " (it is in use: a thread is inside, or buffers of it are alive)",
        Errno::EUCLEAN => " (its file is damaged; `spacejmp store check` says where)",
        _ => "",
    }
}

impl Failure {
    /// Of a call on `space`.
    pub(crate) fn call(verb: &'static str, space: &str) -> impl FnOnce(Errno) -> Failure {
        move |errno| match errno {
            Errno::ENOSYS => Failure::NotInVm,
            errno => Failure::Call { verb, space: space.to_owned(), errno },
        }
    }

    /// The class in `spacejmp._errors`, and the number if it is one with a number.
    fn class(&self) -> (&'static str, Option<Errno>) {
        match self {
            Failure::NotInVm => ("NotInVMError", None),
            Failure::Call { errno: Errno::ENOENT, .. } => ("NotFoundError", Some(Errno::ENOENT)),
            Failure::Call { errno, .. }
            | Failure::NotCommitted { errno, .. }
            | Failure::NoRoom { errno, .. } => ("StoreError", Some(*errno)),
            Failure::WrongType { .. } => ("WrongTypeError", None),
            Failure::NoRoot { .. } => ("NotFoundError", Some(Errno::ENODATA)),
            Failure::NotVersioned { .. } => ("WrongTypeError", None),
            Failure::Damaged { .. } => ("DamagedError", None),
            Failure::Changed { .. } => ("StoreError", Some(Errno::ESTALE)),
            Failure::Visit(_) => ("VisitError", None),
            Failure::ReadOnly { .. } => ("ReadOnlyError", None),
        }
    }

    fn exception(&self, py: Python<'_>) -> PyResult<PyErr> {
        let (name, errno) = self.class();
        let class = py.import("spacejmp._errors")?.getattr(name)?;
        let value = match errno {
            Some(errno) => class.call1((errno.raw(), self.to_string()))?,
            None => class.call1((self.to_string(),))?,
        };
        Ok(PyErr::from_value(value))
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        Python::attach(|py| match failure.exception(py) {
            Ok(exception) => exception,
            // Without the package's Python half there are no classes of its own.
            Err(_) => PyRuntimeError::new_err(failure.to_string()),
        })
    }
}
