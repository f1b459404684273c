// Things are stored that mean nothing to the next process.
use std::cell::Cell;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

spacejmp::brand! { Reference => &'static u64 }
spacejmp::brand! { Function => fn(u64) -> u64 }
spacejmp::brand! { TraitObject => Box<dyn Debug + Send + Sync> }
spacejmp::brand! { Counted => Rc<u64> }
spacejmp::brand! { Shared => Arc<u64> }
spacejmp::brand! { Boxed => Box<u64> }
spacejmp::brand! { Vector => Vec<u64> }
spacejmp::brand! { Text => String }
spacejmp::brand! { InACell => Cell<u64> }
spacejmp::brand! { Locked => Mutex<u64> }
spacejmp::brand! { Atomic => AtomicU64 }
spacejmp::brand! { Raw => *mut u64 }

fn main() {}
