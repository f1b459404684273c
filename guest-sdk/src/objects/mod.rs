//! VASes and segments as untyped objects: made, found, listed, put together, deleted.
//!
//! - [`vas`]: address spaces; [`segment`]: segments; [`attached`]: instances of this process
//!
//! None of this looks at content; that is what [`crate::Space`] is for. Every error names
//! the object. An object's value is its id and name: it keeps nothing open, and the object may be
//! deleted under it (`ENOENT`).

pub(crate) mod attached;
pub(crate) mod segment;
pub(crate) mod vas;

use abi::Errno;

use crate::call_page::CallPage;
use crate::error::{Error, ObjectKind};
use crate::sys::name_bytes;

/// The error for a call's error number.
pub(crate) fn failed(
    verb: &'static str,
    kind: ObjectKind,
    name: impl Into<String>,
) -> impl FnOnce(Errno) -> Error {
    let name = name.into();
    move |errno| match CallPage::find() {
        Err(missing) => missing.into(),
        Ok(_) => Error::Call { verb, kind, name, errno },
    }
}

/// A name as calls return it: the VMM accepts none that is not UTF-8.
fn name(bytes: &[u8; 256]) -> String {
    String::from_utf8_lossy(name_bytes(bytes)).into_owned()
}
