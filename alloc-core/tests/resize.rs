//! Large objects that grow and shrink at random: contents stay, and the kernel's list of areas stays short,
//! since a process may have 65,530 of them.

use std::fs;

const ROUNDS: u32 = 20_000;
const LIVE: usize = 60;

fn areas() -> usize {
    fs::read_to_string("/proc/self/maps").expect("/proc").lines().count()
}

/// Whether the kernel was asked for huge pages in the area of `address`.
fn wants_huge_pages(address: *mut u8) -> bool {
    let smaps = fs::read_to_string("/proc/self/smaps").expect("/proc");
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or("");
        let bounds = first.split_once('-').map(|bounds| (hex(bounds.0), hex(bounds.1)));
        if let Some((Some(start), Some(end))) = bounds {
            inside = (start..end).contains(&(address as usize));
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_whitespace().any(|flag| flag == "hg");
        }
    }
    panic!("{address:p} is not mapped");
}

fn hex(text: &str) -> Option<usize> {
    usize::from_str_radix(text, 16).ok()
}

/// An object that says at its start and its end what it is.
struct Object {
    address: *mut u8,
    size: usize,
}

impl Object {
    fn new(size: usize) -> Object {
        let address = rsalloc_core::allocate_zeroed(size, 8);
        assert!(!address.is_null());
        for place in (0..size).step_by(4000) {
            // SAFETY: inside a live object.
            assert_eq!(unsafe { address.add(place).read() }, 0, "{size} B at {place}");
        }
        Object { address, size }.mark()
    }

    fn mark(self) -> Object {
        // SAFETY: inside a live object; dirt in the middle, for the next one to find.
        unsafe {
            self.address.write(1);
            self.address.add((self.size / 2) & !4095).write(3);
            self.address.add(self.size - 1).write(2);
        }
        self
    }

    fn resize(self, size: usize) -> Object {
        // SAFETY: live; the marks that a smaller size keeps are inside it.
        unsafe {
            let address = rsalloc_core::reallocate(self.address, size);
            assert_eq!(address.read(), 1, "start of {} -> {size}", self.size);
            if size >= self.size {
                assert_eq!(address.add(self.size - 1).read(), 2, "end of {} -> {size}", self.size);
            }
            Object { address, size }.mark()
        }
    }

    fn free(self) {
        // SAFETY: live.
        unsafe { rsalloc_core::free(self.address) };
    }
}

#[test]
fn large_objects_keep_their_contents_and_the_kernel_its_areas() {
    let before = areas();
    let mut state = 12_345u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut live: Vec<Object> = Vec::new();
    for round in 0..ROUNDS {
        if live.len() < LIVE && random() % 2 == 0 {
            live.push(Object::new(300_000 + random() % 3_000_000));
        } else if !live.is_empty() {
            let object = live.swap_remove(random() % live.len());
            match random() % 4 {
                0 => object.free(),
                1 => live.push(object.resize(300_000 + random() % 3_000_000)),
                _ if object.size > 20_000_000 => object.free(),
                _ => {
                    let size = object.size + random() % 2_000_000;
                    live.push(object.resize(size));
                }
            }
        }
        if round % 4000 == 0 {
            assert_eq!(rsalloc_core::check(), Ok(()));
        }
    }
    let areas = areas();
    assert!(areas < before + 2 * LIVE + 20, "{areas} areas, {before} at first");
    live.into_iter().for_each(Object::free);
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()));
}

#[test]
fn only_objects_that_grew_large_get_huge_pages() {
    const MIB: usize = 1 << 20;
    let object = Object::new(100 * MIB);
    assert!(!wants_huge_pages(object.address), "as allocated: its density is not known");
    let object = object.resize(60 * MIB);
    assert!(!wants_huge_pages(object.address), "shrunk");
    let object = object.resize(101 * MIB + 5);
    assert!(wants_huge_pages(object.address), "grown");
    // By a little, up or down: its last huge page stays whole.
    let object = object.resize(101 * MIB + 9000).resize(101 * MIB - 9000);
    // SAFETY: live.
    assert_eq!(unsafe { rsalloc_core::usable_size(object.address) }, 102 * MIB);
    let object = object.resize(99 * MIB);
    // SAFETY: live.
    assert_eq!(unsafe { rsalloc_core::usable_size(object.address) }, 100 * MIB);
    object.free();
    let small = Object::new(MIB).resize(20 * MIB);
    assert!(!wants_huge_pages(small.address), "a huge page could be a tenth of it");
    let grown = small.resize(40 * MIB);
    assert!(wants_huge_pages(grown.address), "grown out of a segment");
    grown.free();
}

/// What an object no longer has serves others, but for a sixteenth.
#[test]
fn a_shrunk_object_gives_its_rest_back() {
    const MIB: usize = 1 << 20;
    let lengths = [
        (8 * MIB, 61 * MIB / 10),
        (8 * MIB, 7 * MIB),
        (31 * MIB, 29 * MIB - 1),
        (40 * MIB, 35 * MIB),
    ];
    for (old, new) in lengths {
        let object = rsalloc_core::allocate(old);
        assert!(!object.is_null());
        // SAFETY: a live object of that size; its first byte and its last after the resize.
        unsafe {
            object.write_bytes(7, old);
            let shrunk = rsalloc_core::reallocate(object, new);
            assert_eq!((shrunk.read(), shrunk.add(new - 1).read()), (7, 7));
            let usable = rsalloc_core::usable_size(shrunk);
            assert!(usable <= new + old / 16 + (64 << 10), "{usable} of {old} for {new} bytes");
            rsalloc_core::free(shrunk);
        }
    }
}
