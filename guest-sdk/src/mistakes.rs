//! The mistakes that must not compile, one test each; there is no code here.
//!
//! What all of them begin with compiles, and so does each of them without its last step:
//!
//! ```
//! use spacejmp::{In, Space, Storable, VBox, VPtr, VVec, Write};
//!
//! #[derive(Storable)]
//! #[storable(vas = One)]
//! struct Node {
//!     next: Option<VBox<Node, One>>,
//!     number: u64,
//! }
//! spacejmp::brand! { One => Option<VBox<Node, One>>, Two => Option<VPtr<u64, Two>> }
//!
//! fn check(one: &Space<One>, two: &Space<Two>, v: &mut In<One, Write>) {
//!     let mut list = VVec::from_slice(v, &[1_u64]).unwrap();
//!     let first = list.at(v)[0];
//!     list.at_mut(v).push(first).unwrap();
//!     let mut node = VBox::new(v, Node { next: None, number: 1 }).unwrap();
//!     node.get_mut(v).number = 2;
//!     let number = one.enter(|v| v.root().as_ref().map(|node| node.get(v).number));
//!     let inner = v.enter(two, |w| w.root().map(|number| *number.get(w)));
//! }
//! ```
//!
//! Following a pointer outside:
//! ```compile_fail
//! # use spacejmp::VBox;
//! # spacejmp::brand! { One => u64 }
//! fn check(number: &VBox<u64, One>) -> u64 {
//!     **number
//! }
//! ```
//!
//! A reference kept after leaving:
//! ```compile_fail
//! # use spacejmp::{Space, VBox};
//! # spacejmp::brand! { One => u64 }
//! fn check(one: &Space<One>) -> &u64 {
//!     one.enter(|v| v.root()).unwrap()
//! }
//! ```
//!
//! A token kept after leaving:
//! ```compile_fail
//! # use spacejmp::{In, Read, Space};
//! # spacejmp::brand! { One => u64 }
//! fn check(one: &Space<One>) {
//!     let mut kept: Option<&mut In<One, Read>> = None;
//!     one.enter(|v| kept = Some(v)).unwrap();
//! }
//! ```
//!
//! A pointer in the wrong VAS:
//! ```compile_fail
//! # use spacejmp::{In, Read, VBox};
//! # spacejmp::brand! { One => u64, Two => u64 }
//! fn check(number: &VBox<u64, One>, w: &In<Two, Read>) -> u64 {
//!     *number.get(w)
//! }
//! ```
//!
//! A reference kept across a switch:
//! ```compile_fail
//! # use spacejmp::{In, Space, Write};
//! # spacejmp::brand! { One => u64, Two => u64 }
//! fn check(v: &mut In<One, Write>, two: &Space<Two>) {
//!     let (root, _) = v.root_mut();
//!     v.enter(two, |_| ()).unwrap();
//!     *root = 1;
//! }
//! ```
//!
//! The token handed to another thread:
//! ```compile_fail
//! # use spacejmp::{In, Read};
//! # spacejmp::brand! { One => u64 }
//! fn check(v: &In<One, Read>) {
//!     std::thread::scope(|scope| {
//!         scope.spawn(|| *v.root());
//!     });
//! }
//! ```
//!
//! Writing with shared access:
//! ```compile_fail
//! # use spacejmp::{In, Read, VBox};
//! # spacejmp::brand! { One => u64 }
//! fn check(number: &mut VBox<u64, One>, v: &In<One, Read>) {
//!     *number.get_mut(v) = 1;
//! }
//! ```
//!
//! Two writable paths to one value:
//! ```compile_fail
//! # use spacejmp::{In, VPtr, Write};
//! # spacejmp::brand! { One => u64 }
//! fn check(shared: VPtr<u64, One>, v: &mut In<One, Write>) {
//!     let (root, _) = v.root_mut();
//!     *shared.get_mut(v) = *root;
//!     *root = 1;
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
//!     v.enter(two, |_| ()).unwrap();
//!     drop(values);
//! }
//! ```
//!
//! Storing what means nothing to another process:
//! ```compile_fail
//! # spacejmp::brand! { One => &'static u64 }
//! ```
//! ```compile_fail
//! # spacejmp::brand! { One => fn() }
//! ```
//! ```compile_fail
//! # spacejmp::brand! { One => Box<dyn std::fmt::Debug + Send + Sync> }
//! ```
//! ```compile_fail
//! # spacejmp::brand! { One => Vec<u64> }
//! ```
//! ```compile_fail
//! # spacejmp::brand! { One => String }
//! ```
//! ```compile_fail
//! # spacejmp::brand! { One => std::sync::Arc<u64> }
//! ```
//! ```compile_fail
//! # spacejmp::brand! { One => std::sync::atomic::AtomicU64 }
//! ```
//!
//! Storing a pointer of another VAS, and a struct that does not say it may be stored:
//! ```compile_fail
//! # spacejmp::brand! { One => Option<spacejmp::VBox<u64, Two>>, Two => u64 }
//! ```
//! ```compile_fail
//! # struct Plain(u64);
//! # spacejmp::brand! { One => Plain }
//! ```
