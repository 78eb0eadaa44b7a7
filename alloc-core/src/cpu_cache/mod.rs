//! The per-CPU caches' slow side: refill, flush, and who serves a thread that has no shard.
//!
//! Promises: an object popped from or pushed to any cache is in exactly one place afterwards; whatever
//! cannot use a shard is served by the atomic path or straight from the depot and slabs. The fast
//! sides are the entries in `asm`. Called by engine; calls rseq, depot, slab.
//!
//! Invariants:
//! I1. A thread with rseq works on shards by sections only; a thread without, on locked shards and, where no
//!     thread has rseq, on the one of its seat only.
//! I2. Retries are bounded by `RETRIES`; then the caller takes another way.
//! I3. Between tiers, objects lie in a buffer on the stack: at most one magazine per thread.

mod capacity;
pub mod cpus;
mod decline;
pub mod drain;
pub mod locked;
pub mod seat;
pub mod seats;
pub mod shards;

use crate::depot::DEPOT;
use crate::fail::{Misuse, deny};
use crate::object::{Batch, Contents, Fresh, Object};
use crate::page_heap::PAGE_HEAP;
use crate::region::{Counter, Region};
use crate::rseq::registration;
use crate::rseq::{ABORTED, FULL, NO_SHARD, Sections};
use crate::size_class::{CLASS, CLASSES, Class, natural_align};
use crate::slab::{self, SLABS};
use crate::sync::{Backoff, Reentered, is_barred};
use locked::Locked;

const RETRIES: usize = 4;

/// See [`turn_batch`].
const TURN_BATCH_MIN: usize = 8;

/// Below this much in use the caches are not cut any further.
const IN_USE_MIN_BYTES: usize = 16 << 20;

/// The operations of a shard, by sections or under a lock; see `rseq::emulated` for what they do.
pub trait Shard {
    /// The object on top, 0 if empty, or a status.
    fn pop(&self, class: Class) -> isize;
    /// 0 or a status.
    fn push(&self, class: Class, object: usize) -> isize;
    /// How many were popped, or a status.
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> isize;
    /// How many were pushed, the last ones first, or a status.
    fn push_batch(&self, class: Class, objects: &[usize]) -> isize;
    /// 0 or a status.
    fn set_end(&self, class: Class, region: &Region, expected: usize, end: usize) -> isize;
    /// 0 or a status.
    fn add(&self, counter: Counter, delta: usize) -> isize;
    /// The region that the shard works on now, if it has one; for sections only a hint.
    fn region(&self) -> Option<&'static Region>;
}

/// Allocates an object of `class`; none when the OS has no more memory.
pub fn allocate(class: Class) -> Option<Fresh> {
    if let Some(sections) = registration::sections() {
        for _ in 0..RETRIES {
            match sections.pop(class) {
                0 if shards::open_or_create(sections) => return refill(&sections, class),
                0 => return take_one(class),
                ABORTED => count(&sections, Counter::Aborts),
                NO_SHARD if registration::arrive(sections) => {}
                NO_SHARD => break,
                address => return popped(address),
            }
        }
    }
    if let Some(seat) = seats::mine() {
        match seat.pop(class) {
            0 => return refill(seat, class),
            NO_SHARD => {}
            address => return popped(address),
        }
    }
    match Locked::any() {
        Some(locked) => allocate_on(&locked, class),
        None => take_one(class),
    }
}

/// As [`allocate`], on a shard that the caller has for itself.
pub fn allocate_on<S: Shard>(shard: &S, class: Class) -> Option<Fresh> {
    match shard.pop(class) {
        0 => refill(shard, class),
        address => popped(address),
    }
}

/// The object that a shard popped.
#[inline(always)]
fn popped(address: isize) -> Option<Fresh> {
    // SAFETY: the pop took the object out of the shard, whose it was.
    unsafe { Object::from_address(address as usize) }.map(Fresh::used)
}

/// Frees an object of `class`.
pub fn free(class: Class, object: usize) {
    cache(class, object);
    // Not before the caller has let go of its shard: this may take a while.
    if SLABS[class].has_fallen() {
        decline::look(class);
    }
}

fn cache(class: Class, object: usize) {
    if let Some(sections) = registration::sections() {
        for _ in 0..RETRIES {
            match sections.push(class, object) {
                0 => return,
                FULL if shards::open_or_create(sections) => return flush(&sections, class, object),
                FULL => return give_back(class, &mut batch_of(object)),
                ABORTED => count(&sections, Counter::Aborts),
                NO_SHARD if registration::arrive(sections) => {}
                _ => break,
            }
        }
    }
    if let Some(seat) = seats::mine() {
        match seat.push(class, object) {
            0 => return,
            FULL => return flush(seat, class, object),
            _ => {}
        }
    }
    match Locked::any() {
        Some(locked) => free_on(&locked, class, object),
        None => give_back(class, &mut batch_of(object)),
    }
}

/// As [`free`], on a shard that the caller has for itself.
pub fn free_on<S: Shard>(shard: &S, class: Class, object: usize) {
    if shard.push(class, object) != 0 {
        flush(shard, class, object);
    }
}

/// Serves one object of an empty class and fills the shard with the rest of a magazine.
#[cold]
fn refill<S: Shard>(shard: &S, class: Class) -> Option<Fresh> {
    prefetch(class);
    let wanted = match capacity::ran_empty_last(shard, class) {
        true => CLASS[class].batch,
        false => turn_batch(class),
    };
    drop_null(shard, class);
    count(shard, Counter::Refills);
    capacity::note_refill(shard, class);
    let mut batch = Batch::new();
    let contents = supply(class, &mut batch, wanted);
    let object = batch.pop_first()?;
    fill(shard, class, &mut batch);
    if !batch.is_empty() {
        give_back(class, &mut batch);
    }
    Some(Fresh { object, contents })
}

/// The tiers below, whose lines a rare miss finds in no near cache, come while the shard is looked at.
fn prefetch(class: Class) {
    DEPOT.prefetch(class);
    slab::prefetch_class(class);
    if CLASS[class].batch == 1 {
        PAGE_HEAP.prefetch();
    }
}

/// What a class moves to or from the slabs when it swings. Who goes on emptying or filling it moves a whole batch, for
/// the fixed cost; after a turn that would be most of an allocation's longest times, for nothing that is needed.
fn turn_batch(class: Class) -> usize {
    let batch = CLASS[class].batch;
    (batch / 4).max(batch.min(TURN_BATCH_MIN))
}

/// Objects from the depot or, if it has none, `wanted` ones from a slab; what the first of them holds.
fn supply(class: Class, batch: &mut Batch, wanted: usize) -> Contents {
    DEPOT.take(class, batch);
    if !batch.is_empty() {
        return Contents::Any;
    }
    match slab::take(class, batch, wanted) {
        Ok(contents) if !batch.is_empty() || !is_barred() => contents,
        // The thread was interrupted inside this class or below, or is late: a larger object serves as well.
        Ok(_) | Err(Reentered) => take_one(class).map_or(Contents::Any, |fresh| {
            batch.push(fresh.object);
            fresh.contents
        }),
    }
}

/// Moves as much of `batch` into the shard as it has capacity for.
fn fill<S: Shard>(shard: &S, class: Class, batch: &mut Batch) {
    for _ in 0..RETRIES {
        match shard.push_batch(class, batch.addresses()) {
            pushed @ 0.. => return batch.forget_last(pushed as usize),
            ABORTED => count(shard, Counter::Aborts),
            _ => return,
        }
    }
}

/// Adds up to `most` objects from the shard to `batch`; whether there was a slot with one or with a null.
fn pop_into<S: Shard>(shard: &S, class: Class, batch: &mut Batch, most: usize) -> isize {
    let mut popped = 0;
    // SAFETY: what the shard pops was the shard's.
    unsafe {
        batch.receive_slots(most, |out| {
            popped = shard.pop_batch(class, out);
            popped.max(0) as usize
        });
    }
    popped
}

/// The batch of an object of which the caller gives up the address.
fn batch_of(object: usize) -> Batch {
    // SAFETY: the object was freed, so it is the caller's.
    unsafe { Batch::from_slots(&[object]) }
}

/// Makes room in a full class by moving a magazine out, then pushes `object`.
#[cold]
fn flush<S: Shard>(shard: &S, class: Class, object: usize) {
    prefetch(class);
    let has_turned = capacity::ran_empty_last(shard, class);
    count(shard, Counter::Flushes);
    if !capacity::grow_on_flush(shard, class) {
        let wanted = match has_turned && !depot_has_room(class) {
            true => turn_batch(class),
            false => CLASS[class].batch,
        };
        let mut batch = Batch::new();
        if pop_into(shard, class, &mut batch, wanted) > 0 {
            // The last of the batch are what was freed last: the place to look for a double free.
            deny(batch.addresses().contains(&object), Misuse::DoubleFree, object);
            give_back(class, &mut batch);
        }
    }
    if shard.push(class, object) != 0 {
        give_back(class, &mut batch_of(object));
    }
}

/// Puts objects of `class` that are in nobody's cache into the depot, else into their slabs.
fn give_back(class: Class, batch: &mut Batch) {
    let whole = batch.len() == CLASS[class].batch;
    let wanted = whole && !SLABS[class].has_declined() && depot_has_room(class);
    if wanted && DEPOT.put(class, batch) {
        return;
    }
    give_back_to_slab(class, batch);
}

/// Hands all regions that the shards of this process' mode have, and that nobody else can touch meanwhile, to `f`;
/// the locked ones are not among them. See [`shards::while_stopped`] and [`seats::while_closed`].
pub fn while_still<R>(
    backoff: &mut Backoff,
    f: impl FnOnce(&mut dyn Iterator<Item = &'static Region>) -> R,
) -> Option<R> {
    match registration::sections() {
        Some(_) => shards::while_stopped(backoff, f),
        None => seats::while_closed(backoff, f),
    }
}

/// As [`while_still`], of those that are `wanted` and one after the other where that can be: whether none was left out.
fn each_still(
    backoff: &mut Backoff,
    wanted: impl Fn(&Region) -> bool,
    mut f: impl FnMut(&'static Region),
) -> bool {
    match registration::sections() {
        Some(_) => shards::stop_each(backoff, wanted, f),
        None => seats::while_closed(backoff, |regions| {
            regions.filter(|region| wanted(region)).for_each(&mut f);
        })
        .is_some(),
    }
}

/// Whether somebody is within [`while_still`] or [`each_still`], or about to be, at this moment.
fn is_still() -> bool {
    match registration::sections() {
        Some(_) => shards::raw_lock().is_held(),
        None => seats::raw_lock().is_held(),
    }
}

/// All regions of all shards, for statistics: they may change while one looks.
pub fn regions() -> impl Iterator<Item = &'static Region> {
    shards::regions().chain(seats::regions()).chain(locked::regions())
}

/// Bytes in objects that shards and the depot cache, as one look can tell.
pub fn cached_bytes() -> usize {
    let in_depot =
        (1..CLASSES).map(|class| DEPOT.magazines(class) * CLASS[class].batch * CLASS[class].size);
    let in_shard = |region: &Region| {
        (1..CLASSES).map(|class| region.len(class) * CLASS[class].size).sum::<usize>()
    };
    in_depot.sum::<usize>() + regions().map(in_shard).sum::<usize>()
}

/// Whether one magazine more lies within what the depot may hold: an eighth of what is in use, and one
/// magazine of each class of small objects.
fn depot_has_room(class: Class) -> bool {
    DEPOT.bytes() < in_use_bytes() / 8 || CLASS[class].batch > 1 && DEPOT.magazines(class) == 0
}

/// What the caches are measured by: the bytes in spans, cached objects included.
fn in_use_bytes() -> usize {
    PAGE_HEAP.held_bytes().max(IN_USE_MIN_BYTES)
}

fn give_back_to_slab(class: Class, batch: &mut Batch) {
    slab::put_cached(class, batch);
    // A handler above its own thread's slab lock, or a late thread: leave them where no lock is needed. If the OS has
    // not even memory for a magazine they are never used again.
    if !batch.is_empty() && !DEPOT.put_unbounded(class, batch) {
        batch.forget_all();
    }
    PAGE_HEAP.trim();
}

/// One object straight from a slab, for a thread that has no cache at this moment. If the slab tier of
/// the class, or the pages, are held below the caller, a larger class serves whose objects are aligned as well.
fn take_one(class: Class) -> Option<Fresh> {
    let mut batch = Batch::new();
    let align = natural_align(class);
    for larger in (class..CLASSES).filter(|&larger| natural_align(larger) >= align) {
        match slab::take(larger, &mut batch, 1) {
            Ok(contents) if !batch.is_empty() => {
                return batch.pop_first().map(|object| Fresh { object, contents });
            }
            // Out of memory; for who lacks a lock only of pages, and another class may have objects.
            Ok(_) if !is_barred() => return None,
            Ok(_) | Err(Reentered) => {}
        }
    }
    None
}

/// A sized free of null leaves a null on the stack, which pops as "empty": throws such away.
fn drop_null<S: Shard>(shard: &S, class: Class) {
    let mut batch = Batch::new();
    while shard.region().is_some_and(|region| region.len(class) > 0) {
        match pop_into(shard, class, &mut batch, 1) {
            1 if batch.is_empty() => {}
            1 => return give_back(class, &mut batch),
            _ => return,
        }
    }
}

/// Counts an event of the shard; lost if the section aborts, which a statistic may.
fn count<S: Shard>(shard: &S, counter: Counter) {
    let _ = shard.add(counter, 1);
}

impl Shard for Sections {
    fn pop(&self, class: Class) -> isize {
        Sections::pop(*self, class)
    }
    fn push(&self, class: Class, object: usize) -> isize {
        Sections::push(*self, class, object)
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> isize {
        Sections::pop_batch(*self, class, out)
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> isize {
        Sections::push_batch(*self, class, objects)
    }
    fn set_end(&self, class: Class, region: &Region, expected: usize, end: usize) -> isize {
        Sections::set_end(*self, class, region, expected, end)
    }
    fn add(&self, counter: Counter, delta: usize) -> isize {
        Sections::add(*self, counter as usize, delta)
    }
    fn region(&self) -> Option<&'static Region> {
        shards::current(*self)
    }
}
