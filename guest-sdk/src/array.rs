//! Arrays made element by element, where that may fail.

/// What `f` makes of each value, unless it fails for one; those after it are dropped.
pub(crate) fn try_map<T, U, E, const N: usize>(
    values: [T; N],
    mut f: impl FnMut(T) -> Result<U, E>,
) -> Result<[U; N], E> {
    let mut failed = None;
    let made = values.map(|value| match failed {
        None => f(value).map_err(|error| failed = Some(error)).ok(),
        Some(_) => None,
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(made.map(|made| made.expect("each was made, or one has failed"))),
    }
}
