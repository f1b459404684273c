//! Where copies of a program begin: `spacejmp run --snapshot-at-ready` and `--from`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::error::{Error, Result};
use crate::sys;

/// Who came back from [`ready`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// The program itself.
    Original,
    /// A copy, which has what it was started with.
    Copy {
        /// Its arguments, the first of which is the program's name.
        args: Vec<OsString>,
        /// Its environment.
        env: Vec<(OsString, OsString)>,
    },
}

/// Says that the program has prepared what takes long, and has not looked yet at what is different from one run to the
/// next: copies of it are to begin here. `spacejmp run --snapshot-at-ready NAME` makes a snapshot at the first such call, and the
/// program goes on; without that option nothing happens, at the price of a call. `spacejmp run --from NAME ARGS` starts a copy,
/// which comes back from this call with its own arguments and environment. `std::env` still has those of the original,
/// and so has `/proc/self/cmdline`.
///
/// ```no_run
/// use spacejmp::Ready;
///
/// # fn load() -> Vec<u8> { Vec::new() }
/// # fn serve(table: &[u8], args: impl Iterator<Item = std::ffi::OsString>) {}
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let table = load();
/// match spacejmp::ready()? {
///     Ready::Original => serve(&table, std::env::args_os()),
///     Ready::Copy { args, .. } => serve(&table, args.into_iter()),
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::NotUnderSpacejmp`] in a plain process. [`Error::NotKept`]: the run was to make a snapshot and could not; the reason is on its
/// stderr. The program is the original, and can go on.
pub fn ready() -> Result<Ready> {
    crate::CallPage::find()?;
    let failed = |errno| Error::NotKept { errno };
    let bytes = sys::ready().map_err(failed)?;
    if bytes == 0 {
        return Ok(Ready::Original);
    }
    let mut buffer = vec![0; bytes as usize];
    sys::ready_arguments(&mut buffer).map_err(failed)?;
    copy(&buffer).ok_or(Error::NotKept { errno: sys::Errno::EIO })
}

/// What is in a buffer that `ready_arguments` has filled.
fn copy(buffer: &[u8]) -> Option<Ready> {
    let (counts, rest) = buffer.split_at_checked(16)?;
    let [args, env] = counts.as_chunks::<8>().0 else { return None };
    let [args, env] = [args, env].map(|count| u64::from_le_bytes(*count));
    let mut texts = rest.strip_suffix(b"\0").map(|rest| rest.split(|byte| *byte == 0));
    let mut next = || Some(texts.as_mut()?.next()?.to_vec());
    let args = (0..args).map(|_| next().map(OsString::from_vec)).collect::<Option<_>>()?;
    let mut variable = || {
        let mut name = next()?;
        // As the standard library has it: a name may begin with `=`.
        let end = 1 + name.get(1..)?.iter().position(|byte| *byte == b'=')?;
        let value = name.split_off(end + 1);
        name.truncate(end);
        Some((OsString::from_vec(name), OsString::from_vec(value)))
    };
    let env = (0..env).map(|_| variable()).collect::<Option<_>>()?;
    Some(Ready::Copy { args, env })
}

#[cfg(test)]
mod tests {
    use super::{Ready, copy, ready};
    use crate::error::Error;

    fn buffer(counts: [u64; 2], texts: &[u8]) -> Vec<u8> {
        [counts.map(u64::to_le_bytes).as_flattened(), texts].concat()
    }

    #[test]
    fn a_copy_has_its_arguments_and_variables_and_what_is_cut_off_is_nothing() {
        let whole = buffer([3, 2], b"./a\0\0two words\0B=c=d\0E=\0");
        let args = ["./a", "", "two words"].map(Into::into).to_vec();
        let env = vec![("B".into(), "c=d".into()), ("E".into(), "".into())];
        assert_eq!(copy(&whole), Some(Ready::Copy { args, env }));
        assert_eq!(copy(&buffer([0, 0], b"")), Some(Ready::Copy { args: vec![], env: vec![] }));
        for len in 0..whole.len() - 5 {
            assert_eq!(copy(&whole[..len]), None, "{len}");
        }
        assert_eq!(copy(&buffer([0, 1], b"no value\0")), None);
    }

    #[test]
    fn outside_a_vm_there_is_nobody_to_be_told() {
        assert!(matches!(ready(), Err(Error::NotUnderSpacejmp(_))));
    }
}
