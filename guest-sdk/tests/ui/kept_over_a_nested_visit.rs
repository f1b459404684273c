// A reference into a suspended visit is used in the nested one, or a pointer of the nested one in the other.
use spacejmp::{Error, In, Space, VPtr, Write};

spacejmp::brand! { One<'v> => Option<VPtr<u64, One<'v>>>, Two<'v> => Option<VPtr<u64, Two<'v>>> }

fn reference(v: &mut In<One<'_>, Write>, two: &Space<Two<'_>>) -> Result<(), Error> {
    let (root, _) = v.root_mut();
    v.write(two, |_| Ok::<_, Error>(()))?;
    *root = None;
    Ok(())
}

fn token(v: &mut In<One<'_>, Write>, two: &Space<Two<'_>>) -> Result<bool, Error> {
    v.read(two, |w| w.root().is_some() && v.root().is_some())
}

fn main() {}
