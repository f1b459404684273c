//! `spacejmp` for Python: persistent address spaces whose content are dicts, lists, sets, arrays and what
//! else Python has, changed by transactions.
//!
//! This is the native half of the package; `spacejmp/__init__.py` beside it completes the containers, and the
//! book's page `python.md` says what it is for.
//!
//! - `opened`: a space in this process; `visit`: going in and out; `memory`: the memory of a space while a
//!   thread is inside, checked
//! - `stored`, `table`, `key`: how values lie there; `plain`: to and from Python's
//! - `space`, `proxies`, `array`: the objects of Python's; `ground`: threads that meet buffers
//! - `error`: exceptions
//!
//! # Why no use of it ends the interpreter
//! Objects of Python's have addresses, never references: each operation asks whether the thread is in their visit
//! (`visit`), and checks every address that it follows (`memory`). Buffers are the exception, since those who
//! use them follow pointers: below them there is a version that no commit changes, and a thread that is not
//! inside is brought there (`ground`). `unsafe` is in `memory`, `visit`, `ground`, `array`, and nowhere else.

mod array;
mod error;
mod ground;
mod key;
mod memory;
mod opened;
mod plain;
mod proxies;
mod space;
mod stored;
mod table;
mod visit;

use pyo3::prelude::*;

/// The native half of the package `spacejmp`.
#[pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use super::array::Array;
    #[pymodule_export]
    use super::proxies::{Dict, List, Set};
    #[pymodule_export]
    use super::space::{Space, Transaction, come_back, in_vm, open};
}
