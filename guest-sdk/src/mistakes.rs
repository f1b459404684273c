//! Mistakes with collections that must not compile, one test each; there is no code here. The
//! others are in `tests/ui`, with the compiler's messages.
//!
//! What these begin with compiles:
//!
//! ```
//! use spacejmp::{In, Space, VHashMap, VVec, Write};
//!
//! spacejmp::brand! { One => VHashMap<u8, u64, One>, Two => u64 }
//!
//! fn check(list: &mut VVec<u64, One>, v: &mut In<One, Write>, two: &Space<Two>) {
//!     let (root, at) = v.root_mut();
//!     let first = list.at(at)[0];
//!     list.at_mut(at).push(first).unwrap();
//!     drop(root.at_mut(at));
//!     v.read(two, |_| ()).unwrap();
//! }
//! ```
//!
//! Reading a collection with the token of another VAS, and keeping what may move or be dropped
//! while it is changed:
//! ```compile_fail
//! # use spacejmp::{In, Read, VVec};
//! # spacejmp::brand! { One => u64, Two => u64 }
//! fn check(list: &VVec<u64, One>, w: &In<Two, Read>) -> u64 {
//!     list.at(w)[0]
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{At, VVec, Write};
//! # spacejmp::brand! { One => u64 }
//! fn check(list: &mut VVec<u64, One>, at: &At<One, Write>) -> u64 {
//!     let first = &list.at(at)[0];
//!     list.at_mut(at).push(1).unwrap();
//!     *first
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{In, VHashMap, Write};
//! # spacejmp::brand! { One => VHashMap<u8, u64, One>, Two => u64 }
//! fn check(v: &mut In<One, Write>, two: &spacejmp::Space<Two>) {
//!     let (root, at) = v.root_mut();
//!     let values = root.at_mut(at);
//!     v.read(two, |_| ()).unwrap();
//!     drop(values);
//! }
//! ```
//!
//! With several owners, a value is shared: what these begin with compiles, too.
//!
//! ```
//! use spacejmp::{At, In, Read, VRc, Write};
//!
//! spacejmp::brand! { One<'v> => Option<VRc<u64, One<'v>>> }
//!
//! fn check<'v>(owner: &mut VRc<u64, One<'v>>, at: &At<One<'v>, Write>) -> u64 {
//!     let another = owner.another(at);
//!     drop(another);
//!     if let Some(value) = owner.get_mut(at) {
//!         *value += 1;
//!     }
//!     *owner.get(at)
//! }
//!
//! fn number(v: &In<One<'_>, Read>) -> Option<usize> {
//!     v.root().as_ref().map(|owner| owner.owners(v))
//! }
//! ```
//!
//! A reader makes no owners; an owner is not kept over the end of its visit, nor used in another
//! space; and a value that is being changed has no owner that could be copied:
//! ```compile_fail
//! # use spacejmp::{At, Read, VRc};
//! # spacejmp::brand! { One<'v> => Option<VRc<u64, One<'v>>> }
//! fn check<'v>(owner: &VRc<u64, One<'v>>, at: &At<One<'v>, Read>) -> VRc<u64, One<'v>> {
//!     owner.another(at)
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{Error, Space, VRc};
//! # spacejmp::brand! { One<'v> => Option<VRc<u64, One<'v>>> }
//! fn check(one: &Space<One>) {
//!     let mut kept = None;
//!     let _ = one.write(|v| {
//!         kept = Some(VRc::new(v, 7)?);
//!         Err::<(), _>(Error::NoRoot { space: String::new() })
//!     });
//!     drop(kept);
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{At, VRc, Write};
//! # spacejmp::brand! { One => u64, Two => u64 }
//! fn check(owner: &VRc<u64, One>, at: &At<Two, Write>) -> VRc<u64, One> {
//!     owner.another(at)
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{At, VRc, Write};
//! # spacejmp::brand! { One => u64 }
//! fn check(owner: &mut VRc<u64, One>, at: &At<One, Write>) {
//!     let value = owner.get_mut(at);
//!     let another = owner.another(at);
//!     drop((value, another));
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{Storable, VRc};
//! #[derive(Storable)]
//! #[storable(vas = One)]
//! struct Stored {
//!     owner: VRc<u64, Two>,
//! }
//! spacejmp::brand! { One => Stored, Two => u64 }
//! ```
//!
//! What a key of several parts lends stays in its thread, and ends with the token:
//! ```
//! use spacejmp::{By, In, Read, VHashMap, VString};
//!
//! spacejmp::brand! { One<'v> => VHashMap<(VString<One<'v>>, u8), u64, One<'v>> }
//!
//! fn check(v: &In<One<'_>, Read>, name: String) -> Option<u64> {
//!     v.root().at(v).keys().for_each(|key| assert!(key.parts().0.len() < 9));
//!     v.root().at(v).get(&By((name.as_str(), &7))).copied()
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{In, Read, VHashMap, VString};
//! # spacejmp::brand! { One<'v> => VHashMap<(VString<One<'v>>, u8), u64, One<'v>> }
//! fn check(v: &In<One<'_>, Read>) {
//!     let key = v.root().at(v).keys().next();
//!     std::thread::scope(|scope| {
//!         scope.spawn(|| drop(key));
//!     });
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{Space, VHashMap, VString};
//! # spacejmp::brand! { One<'v> => VHashMap<(VString<One<'v>>, u8), u64, One<'v>> }
//! fn check(one: &Space<One>) {
//!     let mut kept = None;
//!     let _ = one.read(|v| kept = v.root().at(v).keys().next());
//!     drop(kept);
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{VString, collections::parts::Pair};
//! # spacejmp::brand! { One => u64 }
//! fn check(key: &(VString<One>, u8)) {
//!     let text = Pair::of(key).parts().0;
//! }
//! ```
