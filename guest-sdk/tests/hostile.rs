//! Collections under keys that violate their contracts, and closures and destructors that panic, in
//! a space that is nearly full: values are neither lost track of nor dropped twice, and memory is
//! not touched when it is freed. Six seeds; what each does is the same every time.
//!
//! Worth most under AddressSanitizer (`cargo xtask check asan`): blocks of a space over plain memory
//! are the process's own.

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

use spacejmp::collections::{
    VArena, VBTreeMap, VBinaryHeap, VHashMap, VId, VKey, VString, VVec, VVecDeque,
};
use spacejmp::{AllocError, At, Brand, Error, Mode, Space, Storable, VBox, VRc, Write};

/// What a space has room for: little enough that most steps meet the end of it.
const ROOM: usize = 10 << 10;
const STEPS: u64 = if cfg!(miri) { 60 } else { 3000 };

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
    /// One of so many calls of what a type may do lies or panics; 0 for none.
    static MALICE: Cell<u64> = const { Cell::new(0) };
    /// Values that are not dropped.
    static ALIVE: RefCell<HashSet<u64>> = RefCell::default();
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// A random number below `end`.
fn below(end: u64) -> u64 {
    let state =
        STATE.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    STATE.set(state);
    (state >> 33) % end.max(1)
}

fn is_malicious() -> bool {
    let malice = MALICE.get();
    malice != 0 && below(malice) == 0
}

struct OnPurpose;

/// Panics now and then, but not while unwinding: that would end the process.
fn perhaps_panic() {
    if is_malicious() && !std::thread::panicking() {
        panic_any(OnPurpose);
    }
}

/// A key with arbitrary hash, order and equality.
#[derive(Debug, Clone, Storable)]
struct Key(u32);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        perhaps_panic();
        if is_malicious() { below(1 << 20).hash(state) } else { self.0.hash(state) }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        perhaps_panic();
        if is_malicious() { below(2) == 0 } else { self.0 == other.0 }
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        perhaps_panic();
        match if is_malicious() { below(3) } else { 3 } {
            0 => Ordering::Less,
            1 => Ordering::Equal,
            2 => Ordering::Greater,
            _ => self.0.cmp(&other.0),
        }
    }
}

impl<V: Brand> VKey<V> for Key {
    type Borrowed = Key;

    fn borrowed<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a Key {
        perhaps_panic();
        self
    }
}

/// A value that knows whether it is alive, owns memory, and panics when it is dropped or cloned.
#[derive(Storable)]
#[storable(vas = V)]
struct Value<V: Brand> {
    number: u64,
    inverse: u64,
    text: VString<V>,
    more: Option<VBox<u64, V>>,
}

impl<V: Brand> Value<V> {
    fn new(at: &At<V, Write>) -> Result<Value<V>, AllocError> {
        let text = VString::new(at, &"x".repeat(below(60) as usize))?;
        let more = if below(2) == 0 { Some(VBox::new(at, 7)?) } else { None };
        Ok(Value::with(text, more))
    }

    fn with(text: VString<V>, more: Option<VBox<u64, V>>) -> Value<V> {
        let number = NEXT.replace(NEXT.get() + 1);
        ALIVE.with_borrow_mut(|alive| assert!(alive.insert(number), "{number} is made twice"));
        Value { number, inverse: !number, text, more }
    }

    /// Whether it is one, with all that it owns.
    fn is_sound(&self, at: &At<V, Write>) -> bool {
        self.inverse == !self.number
            && self.text.at(at).bytes().all(|byte| byte == b'x')
            && self.more.as_ref().is_none_or(|more| *more.get(at) == 7)
            && ALIVE.with_borrow(|alive| alive.contains(&self.number))
    }
}

impl<V: Brand> Clone for Value<V> {
    fn clone(&self) -> Value<V> {
        perhaps_panic();
        Value::with(VString::empty(), None)
    }
}

impl<V: Brand> Drop for Value<V> {
    fn drop(&mut self) {
        let was_alive = ALIVE.with_borrow_mut(|alive| alive.remove(&self.number));
        // Not by a panic, which a test on the way would take for one of its own.
        if !was_alive || self.inverse != !self.number {
            eprintln!("value {} is dropped twice, or is none", self.number);
            std::process::abort();
        }
        perhaps_panic();
    }
}

/// A value by a key that lies.
#[derive(Storable)]
#[storable(vas = V)]
struct Held<V: Brand> {
    key: Key,
    value: Value<V>,
}

impl<V: Brand> VKey<V> for Held<V> {
    type Borrowed = Key;

    fn borrowed<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a Key {
        perhaps_panic();
        &self.key
    }
}

#[derive(Storable)]
#[storable(vas = V)]
struct Root<V: Brand> {
    vec: VVec<Value<V>, V>,
    map: VHashMap<Key, Value<V>, V>,
    tree: VBTreeMap<Key, Value<V>, V>,
    arena: VArena<Value<V>, V>,
    ids: VVec<VId<Value<V>>, V>,
    deque: VVecDeque<Value<V>, V>,
    heap: VBinaryHeap<Held<V>, V>,
    shared: VVec<VRc<Value<V>, V>, V>,
}

impl<V: Brand> Root<V> {
    fn new() -> Root<V> {
        Root {
            vec: VVec::new(),
            map: VHashMap::new(),
            tree: VBTreeMap::new(),
            arena: VArena::new(),
            ids: VVec::new(),
            deque: VVecDeque::new(),
            heap: VBinaryHeap::new(),
            shared: VVec::new(),
        }
    }

    fn is_sound(&self, at: &At<V, Write>) -> bool {
        let vec = self.vec.at(at).iter();
        let map = self.map.at(at).values();
        let tree = self.tree.at(at).values();
        let more = self.deque.at(at).iter().chain(self.heap.at(at).iter().map(|held| &held.value));
        let more = more.chain(self.shared.at(at).iter().map(|shared| shared.get(at)));
        let mut all = vec.chain(map).chain(tree).chain(self.arena.at(at).values()).chain(more);
        all.all(|value| value.is_sound(at))
    }

    fn on_vec(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let mut vec = self.vec.at_mut(at);
        let len = vec.len() as u64;
        let index = below(len) as usize;
        match below(14) {
            0..4 => vec.push(Value::new(at)?)?,
            4 => vec.insert(below(len + 1) as usize, Value::new(at)?)?,
            5 if len > 0 => drop(vec.remove(index)),
            6 if len > 0 => drop(vec.swap_remove(index)),
            7 => vec.retain(|_| {
                perhaps_panic();
                below(4) != 0
            }),
            8 => vec.dedup_by_key(|value| {
                perhaps_panic();
                value.number % 3
            }),
            9 => drop(vec.drain(index..).take(2).collect::<Vec<_>>()),
            // Leaked: what is behind may be lost, but is not used.
            10 => std::mem::forget(vec.drain(index..)),
            11 => vec.sort_by(|a, b| {
                perhaps_panic();
                if is_malicious() { Ordering::Less } else { a.text.len().cmp(&b.text.len()) }
            }),
            12 => vec.resize(below(40) as usize, Value::new(at)?)?,
            _ => vec.extend((0..below(20)).map_while(|_| {
                perhaps_panic();
                Value::new(at).ok()
            }))?,
        }
        Ok(())
    }

    fn on_map(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let key = Key(below(64) as u32);
        let mut map = self.map.at_mut(at);
        match below(11) {
            0..4 => drop(map.insert(key, Value::new(at)?)?),
            4 => drop(map.remove(&key)),
            5 => drop(map.entry(key).or_try_insert_with(|| {
                perhaps_panic();
                Value::new(at)
            })?),
            6 => drop(map.get_or_insert_with(&key.clone(), || Ok((key, Value::new(at)?)))?),
            7 => map.retain(|_, _| {
                perhaps_panic();
                below(4) != 0
            }),
            8 => drop(map.drain().take(3).collect::<Vec<_>>()),
            9 => map.reserve(below(100) as usize)?,
            _ => map.extend((0..below(20)).map_while(|_| {
                perhaps_panic();
                Some((Key(below(64) as u32), Value::new(at).ok()?))
            }))?,
        }
        Ok(())
    }

    fn on_tree(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let key = Key(below(64) as u32);
        let mut tree = self.tree.at_mut(at);
        match below(10) {
            0..4 => drop(tree.insert(key, Value::new(at)?)?),
            4 => drop(tree.remove(&key)),
            5 => drop((tree.pop_first(), tree.pop_last())),
            6 => drop(tree.entry(key).or_insert(Value::new(at)?)?),
            7 => tree.retain(|_, _| {
                perhaps_panic();
                below(4) != 0
            }),
            8 => {
                for (_, value) in tree.range_mut(key..) {
                    perhaps_panic();
                    assert!(value.is_sound(at));
                }
            }
            _ => tree.extend((0..below(20)).map_while(|_| {
                perhaps_panic();
                Some((Key(below(64) as u32), Value::new(at).ok()?))
            }))?,
        }
        Ok(())
    }

    fn on_arena(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let mut arena = self.arena.at_mut(at);
        let ids = self.ids.at(at);
        let id = ids.get(below(ids.len() as u64) as usize).copied();
        match (below(8), id) {
            (0..3, _) => {
                let id = arena.insert(Value::new(at)?)?;
                self.ids.at_mut(at).push(id)?;
            }
            (3, _) => {
                let value = Value::new(at)?;
                let id = arena.insert_with(|_| {
                    perhaps_panic();
                    value
                })?;
                self.ids.at_mut(at).push(id)?;
            }
            (4..6, Some(id)) => drop(arena.remove(id)),
            (6, Some(id)) => {
                let twice = arena.get_disjoint_mut([id, id]);
                assert!(twice.is_none(), "one value by two references");
            }
            _ => arena.retain(|_, _| {
                perhaps_panic();
                below(3) != 0
            }),
        }
        Ok(())
    }

    fn on_deque(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let mut deque = self.deque.at_mut(at);
        let place = below(deque.len() as u64 + 1) as usize;
        match below(13) {
            0..2 => deque.push_back(Value::new(at)?)?,
            2..4 => deque.push_front(Value::new(at)?)?,
            4 => drop((deque.pop_front(), deque.pop_back())),
            5 => deque.insert(place, Value::new(at)?)?,
            6 => drop(deque.remove(place)),
            7 => deque.retain(|_| {
                perhaps_panic();
                below(4) != 0
            }),
            8 => {
                let mut rest = deque.split_off(place)?;
                perhaps_panic();
                deque.append(&mut rest)?;
            }
            9 => deque.truncate(place),
            10 => deque.make_contiguous().sort_by(|a, b| {
                perhaps_panic();
                a.text.len().cmp(&b.text.len())
            }),
            11 => drop(std::mem::take(&mut self.deque).into_iter(at).take(3).collect::<Vec<_>>()),
            _ => deque.extend((0..below(10)).map_while(|_| {
                perhaps_panic();
                Value::new(at).ok()
            }))?,
        }
        Ok(())
    }

    fn on_heap(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let mut heap = self.heap.at_mut(at);
        let held = |key| Ok::<_, AllocError>(Held { key: Key(key as u32), value: Value::new(at)? });
        match below(8) {
            0..3 => heap.push(held(below(64))?)?,
            3 => drop(heap.pop()),
            4 => drop(heap.change_greatest(|held| {
                perhaps_panic();
                held.key = Key(below(64) as u32);
            })),
            5 => heap.retain(|_| {
                perhaps_panic();
                below(4) != 0
            }),
            6 => drop(std::mem::take(&mut self.heap).into_sorted(at)),
            _ => heap.extend((0..below(10)).map_while(|key| {
                perhaps_panic();
                held(key).ok()
            }))?,
        }
        Ok(())
    }

    fn on_shared(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let mut shared = self.shared.at_mut(at);
        let place = below(shared.len() as u64) as usize;
        match below(8) {
            0..2 => shared.push(VRc::new(at, Value::new(at)?)?)?,
            2..4 if place < shared.len() => {
                let another = shared[place].another(at);
                shared.push(another)?;
            }
            4 if place < shared.len() => {
                if let Some(value) = shared[place].get_mut(at) {
                    *value = Value::new(at)?;
                }
            }
            5 if place < shared.len() => match shared.swap_remove(place).into_inner(at) {
                Ok(value) => drop(value),
                Err(owner) => shared.push(owner)?,
            },
            _ => shared.truncate(place),
        }
        Ok(())
    }

    fn step(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        match below(70) {
            0..10 => self.on_vec(at),
            10..20 => self.on_map(at),
            20..30 => self.on_tree(at),
            30..39 => self.on_arena(at),
            // All at once: destructors that panic in the middle of each other.
            39 => {
                *self = Root::new();
                Ok(())
            }
            40..50 => self.on_deque(at),
            50..60 => self.on_heap(at),
            _ => self.on_shared(at),
        }
    }
}

/// A space of its own for each seed: what is leaked on the way fills it, sooner or later.
struct Seed<const SEED: u64>;

impl<const SEED: u64> Brand for Seed<SEED> {
    type Handles = spacejmp::brand::Kept<Self>;
    type Root = Root<Self>;
    const NAME: &'static str = "Seed";
}

/// What a panic on purpose says is not worth a line.
fn quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<OnPurpose>() && !is_about_keys(info.payload()) {
            before(info);
        }
    }));
}

/// What maps, and `sort_by`, say to keys that are not equal to themselves or in no order.
fn is_about_keys(payload: &(dyn Any + Send)) -> bool {
    let said = [
        "the key that was made is another one",
        "the order of the keys of a map changed",
        "user-provided comparison function does not correctly implement a total order",
    ];
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.is_some_and(|text| said.iter().any(|known| text.contains(known)))
}

/// How often there was no room, and how often something panicked.
fn run<const SEED: u64>() -> (u32, u32) {
    STATE.set(SEED);
    let space = Space::<Seed<SEED>>::in_memory(ROOM, |_| Ok(Root::new())).expect("a space");
    let (mut full, mut panics) = (0, 0);
    for step in 0..STEPS {
        let stepped = space.write(|v| {
            let (root, at) = v.root_mut();
            // Each with another share of malice, so that some get far.
            MALICE.set(100 * SEED);
            let result = catch_unwind(AssertUnwindSafe(|| root.step(at)));
            MALICE.set(0);
            assert!(root.is_sound(at), "seed {SEED}, step {step}");
            Ok::<_, Error>(result)
        });
        match stepped.expect("inside") {
            Ok(Ok(())) => {}
            Ok(Err(AllocError { .. })) => full += 1,
            Err(payload) if payload.is::<OnPurpose>() => panics += 1,
            Err(payload) if is_about_keys(&*payload) => panics += 1,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
    space
        .write(|v| {
            *v.root_mut().0 = Root::new();
            Ok::<_, Error>(())
        })
        .expect("inside");
    (full, panics)
}

#[test]
fn nothing_that_safe_code_does_breaks_a_collection() {
    quiet();
    let runs = [run::<1>(), run::<2>(), run::<3>(), run::<4>(), run::<5>(), run::<6>()];
    for (full, panics) in runs {
        assert!(cfg!(miri) || (full > 0 && panics > 0), "{runs:?}");
    }
}
