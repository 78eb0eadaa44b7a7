//! Objects out of the slabs: from the fullest one of the domain, from one that another domain had, or from a new one.

use super::{SLABS, SlabClass, untouched_bytes};
use crate::arch;
use crate::canary::{self, Canary};
use crate::domain::{self, Domain};
use crate::object::{Batch, Contents, Memory};
use crate::os;
use crate::page_heap::density::Density;
use crate::page_heap::entry::{Kind, PageEntry};
use crate::page_heap::{PAGE_HEAP, Span, SpanRequest};
use crate::page_map;
use crate::size_class::{CLASS, Class, ClassInfo};
use crate::sync::{Rank, Reentered};
use crate::units::{PAGE_BYTES, SLAB_OBJECTS_MAX};

/// Takes up to `wanted` objects of `class` in ascending order into `batch`, which is empty and has space for so many: from the slabs of `domain`, else
/// from one that it adopts or that is new; none when the OS has no more memory and no domain has any. Returns what the first object contains.
pub fn take(
    class: Class,
    domain: Domain,
    batch: &mut Batch,
    wanted: usize,
) -> Result<Contents, Reentered> {
    let slabs = &SLABS[class];
    let guard = slabs.lock.acquire(Rank::slab(class))?;
    let mut contents = Contents::Any;
    while batch.len() < wanted {
        let slab = match slabs.fullest(class, domain) {
            Some(slab) => slab,
            // One more slab is enough; others would only fill the caches.
            None if !batch.is_empty() => break,
            None => match more(slabs, class, domain) {
                Some((slab, first)) => {
                    contents = first;
                    slab
                }
                None => break,
            },
        };
        // The list's next slab, in case this one has too few.
        arch::prefetch(slab.next.get().map_or(0, |next| core::ptr::from_ref(next) as usize));
        take_from(slab, class, batch, wanted);
        slabs.rebin(slab, class);
    }
    slabs.rise_to(slabs.out.get() + batch.len());
    drop(guard);
    Ok(contents)
}

/// A slab with free objects for a domain that has none, and what its first object holds; without memory for a new one, whatever another
/// domain has.
fn more(slabs: &SlabClass, class: Class, domain: Domain) -> Option<(&'static PageEntry, Contents)> {
    let any = |slab| (slab, Contents::Any);
    let adopted = adopt(slabs, class, domain).map(any);
    let found = adopted.or_else(|| new_slab(slabs, class, domain));
    found.or_else(|| domain::all().find_map(|other| slabs.fullest(class, other)).map(any))
}

/// A slab that another domain had, if that is better than a new one; it is in no list.
fn adopt(slabs: &SlabClass, class: Class, domain: Domain) -> Option<&'static PageEntry> {
    if !domain::are_many_of(class) {
        return None;
    }
    let slab = slabs.emptiest_of_others(class, domain)?;
    slabs.unlink(slab, class);
    slab.set_domain(domain);
    Some(slab)
}

/// Whether `domain` has free objects of `class` in its slabs, or gets a new one before it takes what other domains have. A snapshot.
pub fn has_or_may_open(class: Class, domain: Domain) -> bool {
    let slabs = &SLABS[class];
    slabs.fullest(class, domain).is_some() || slabs.may_open(class)
}

/// A slab of `class`, in no list yet, and what its first object holds. None when out of memory.
fn new_slab(
    slabs: &SlabClass,
    class: Class,
    domain: Domain,
) -> Option<(&'static PageEntry, Contents)> {
    let info = &CLASS[class];
    let span = PAGE_HEAP.acquire(SpanRequest {
        pages: info.pages,
        align_pages: 1,
        kind: Kind::Slab,
        density: density_of(info),
        node: domain.node(),
    })?;
    let entry = span.entry;
    entry.set_domain(domain);
    entry.class.set(class as u32);
    entry.free.set(info.objects as u32);
    entry.scan.set(0);
    for (index, word) in entry.bitmap().iter().enumerate().take(info.objects.div_ceil(64)) {
        let bits = (info.objects - index * 64).min(64);
        word.set(!0 >> (64 - bits));
    }
    if canary::is_on() {
        mark_fresh(span.address(), info);
    }
    page_map::set_class_at(span.address(), class);
    slabs.slabs.set(slabs.slabs.get() + 1);
    leave_end_untouched(&span, info);
    // `calloc` uses this only for classes with one object in a slab.
    Some((entry, if info.objects == 1 { span.contents } else { Contents::Any }))
}

/// Counts what of a new slab stays untouched. With a limit it is given back, if it may be resident from a former use.
fn leave_end_untouched(span: &Span, info: &ClassInfo) {
    let untouched = untouched_bytes(info);
    if untouched == 0 {
        return;
    }
    PAGE_HEAP.add_untouched(untouched);
    if span.contents != Contents::Zero && PAGE_HEAP.is_limited() {
        let end = span.address() + info.pages * PAGE_BYTES;
        // SAFETY: the end of a span that this call holds alone; it reads as zero then, which `Any` allows.
        unsafe { os::give_back(end - untouched, untouched) };
    }
}

/// The density of a class's slabs. Slabs of 8 B objects leave half untouched, but nearly every program has one of them, and a
/// segment for it would cost more than that.
fn density_of(info: &ClassInfo) -> Density {
    match info.objects {
        SLAB_OBJECTS_MAX => Density::Dense,
        objects => Density::of(info.pages * PAGE_BYTES, objects * info.size),
    }
}

/// Establishes I1 of the canaries for the objects of a new slab.
fn mark_fresh(page: usize, info: &ClassInfo) {
    for index in 0..info.objects {
        // SAFETY: an object of the span, which this call alone holds.
        Canary::of(unsafe { Memory::new(page + index * info.size, info.size) }).mark_fresh();
    }
}

/// Takes objects of `slab` until the batch has `wanted`, or the slab has no more.
fn take_from(slab: &PageEntry, class: Class, batch: &mut Batch, wanted: usize) {
    let size = CLASS[class].size;
    let page = slab.page();
    let bitmap = slab.bitmap();
    let mut word = slab.scan.get() as usize;
    let free = slab.free.get() as usize;
    let count = free.min(wanted - batch.len());
    // SAFETY: I1: an object whose bit is set is in the slab; clearing the bit hands it out.
    unsafe {
        batch.receive(count, |out| {
            let mut count = 0;
            while count < out.len() {
                let mut bits = bitmap[word].get();
                while bits != 0 && count < out.len() {
                    let (first, most) = lowest_run(bits);
                    let run = most.min(out.len() - count);
                    let mut address = page + (word * 64 + first) * size;
                    for out in &mut out[count..count + run] {
                        out.write(address);
                        address += size;
                    }
                    bits &= !(!0 >> (64 - run) << first);
                    count += run;
                }
                bitmap[word].set(bits);
                if bits == 0 {
                    word += 1;
                }
            }
            count
        });
    }
    slab.scan.set(word as u32);
    slab.free.set((free - count) as u32);
}

/// The first set bit of `bits`, which are not 0, and how many set bits there are from it on without a gap. Objects of a slab mostly come
/// and go by runs.
fn lowest_run(bits: u64) -> (usize, usize) {
    let first = bits.trailing_zeros();
    (first as usize, (bits >> first).trailing_ones() as usize)
}
