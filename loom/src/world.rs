//! The world of one model: which memory is explored, and what starts afresh in each execution.
//!
//! The engine's atomics live in plain memory, in statics, in mappings, wherever a cast finds them, and
//! loom's do not. So each has a shadow of loom's, found by its address ([`cell`]), which takes over while
//! threads run ([`explore`]). Before and after, the memory itself is used: preparing a model and judging
//! its outcome cost no orders.
//!
//! Promises that every execution begins with the same memory ([`restore`]), and that a shadow exists before threads do,
//! as if the memory had always been there: an address that is met for the first time ends the run ([`Word::New`]), and
//! it starts again with one more shadow.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

/// How to make the shadow of the word at an address.
pub type Maker = fn(usize) -> Rc<dyn Any>;
/// How to write the shadow's value back.
pub type Keeper = fn(usize, &dyn Any);

#[derive(Default)]
struct World {
    known: BTreeMap<usize, (Maker, Keeper)>,
    shadows: HashMap<usize, Rc<dyn Any>>,
    /// What memory held before it was written: address, bytes, value.
    journal: Vec<(usize, u8, u64)>,
    /// Only these addresses are explored; all if there are none.
    only: Vec<Range<usize>>,
    /// These are not.
    plain: Vec<Range<usize>>,
}

thread_local! {
    // loom runs the threads of an execution on one.
    static WORLD: RefCell<World> = RefCell::default();
    static EXPLORED: Cell<bool> = const { Cell::new(false) };
    static NEW: Cell<Option<fn(usize, Maker, Keeper) -> !>> = const { Cell::new(None) };
    static EXECUTIONS: Cell<u64> = const { Cell::new(0) };
}

/// What an atomic operation works on.
pub enum Word {
    Memory,
    Shadow(Rc<dyn Any>),
}

/// The word at `address` as it is to be used now.
pub fn word(address: usize, maker: Maker, keeper: Keeper) -> Word {
    if !EXPLORED.get() || std::thread::panicking() {
        return Word::Memory;
    }
    let word = WORLD.with_borrow_mut(|world| {
        let wanted = world.only.is_empty() || lies_in(&world.only, address);
        if !wanted || lies_in(&world.plain, address) {
            return Some(Word::Memory);
        }
        world.shadows.get(&address).map(|shadow| Word::Shadow(shadow.clone()))
    });
    word.unwrap_or_else(|| NEW.get().expect("a model runs")(address, maker, keeper))
}

fn lies_in(ranges: &[Range<usize>], address: usize) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// The shadow at `address`, if it has one.
pub fn shadow(address: usize) -> Option<Rc<dyn Any>> {
    WORLD.with_borrow(|world| world.shadows.get(&address).cloned())
}

/// Remembers what `bytes` bytes at `address` hold, before they are written.
pub fn note(address: usize, bytes: u8, value: u64) {
    WORLD.with_borrow_mut(|world| world.journal.push((address, bytes, value)));
}

/// Only words in `range` (and other ranges named so) are explored from now on; the others are as
/// in a sequential machine. For words that a lock guards, whose lock is explored, or that no two threads
/// of the model share.
pub fn explore_only(range: Range<usize>) {
    WORLD.with_borrow_mut(|world| world.only.push(range));
}

/// Words in `range` are not explored, as in [`explore_only`].
pub fn leave_plain(range: Range<usize>) {
    WORLD.with_borrow_mut(|world| world.plain.push(range));
}

/// The bytes of a value.
pub fn bytes_of<T>(value: &T) -> Range<usize> {
    let start = std::ptr::from_ref(value) as usize;
    start..start + size_of::<T>()
}

/// Whether threads are being explored.
pub fn is_explored() -> bool {
    EXPLORED.get()
}

/// Hands memory over to the shadows.
pub fn explore() {
    WORLD.with_borrow_mut(|world| {
        let World { known, shadows, .. } = world;
        shadows.extend(known.iter().map(|(&address, (maker, _))| (address, maker(address))));
    });
    EXPLORED.set(true);
}

/// Takes memory back from the shadows, when no other thread runs.
pub fn judge() {
    EXPLORED.set(false);
    let (shadows, keepers) = WORLD.with_borrow_mut(|world| {
        let keepers: HashMap<_, _> = world.known.iter().map(|(a, (_, k))| (*a, *k)).collect();
        (std::mem::take(&mut world.shadows), keepers)
    });
    shadows.iter().for_each(|(address, shadow)| keepers[address](*address, &**shadow));
}

/// Begins an execution.
pub fn begin() {
    EXECUTIONS.set(EXECUTIONS.get() + 1);
    WORLD.with_borrow_mut(|world| {
        world.only.clear();
        world.plain.clear();
    });
}

/// Puts memory back to what it was when the execution began.
pub fn restore() {
    assert!(!EXPLORED.get(), "the model was judged");
    let journal = WORLD.with_borrow_mut(|world| std::mem::take(&mut world.journal));
    for (address, bytes, value) in journal.into_iter().rev() {
        // SAFETY: a word that was written in this execution.
        unsafe {
            match bytes {
                1 => *(address as *mut u8) = value as u8,
                4 => *(address as *mut u32) = value as u32,
                _ => *(address as *mut u64) = value,
            }
        }
    }
}

/// What to do with an address that has no shadow yet.
pub fn on_new(f: fn(usize, Maker, Keeper) -> !) {
    NEW.set(Some(f));
}

/// The addresses that are known.
pub fn known() -> usize {
    WORLD.with_borrow(|world| world.known.len())
}

/// Makes `address` known with what the run that met it knew of it.
pub fn learn(address: usize, maker: Maker, keeper: Keeper) {
    WORLD.with_borrow_mut(|world| world.known.insert(address, (maker, keeper)));
}

/// Executions so far.
pub fn executions() -> u64 {
    EXECUTIONS.get()
}

/// Whether this run has the defect `name`, which `cargo xtask loom --control` has put into its copy of the
/// engine.
pub fn mutant(name: &str) -> bool {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    WANTED.get_or_init(|| std::env::var("RSALLOC_LOOM_DEFECT").ok()).as_deref() == Some(name)
}
