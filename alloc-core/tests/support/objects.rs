//! Objects that know their own contents, and a shadow of the page-map range that knows which of them are out.
//!
//! Safe to use from signal handlers: no lock, no allocation but the one under test.

use rsalloc_core::internals::hot::HOT;
use rsalloc_core::internals::units::PAGE_MAP_SHIFT;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Sizes and alignments in use; an object carries the number of its own.
const LAYOUTS: [(usize, usize); 32] = [
    (1, 1),
    (8, 8),
    (8, 16),
    (16, 8),
    (24, 8),
    (32, 32),
    (48, 16),
    (64, 64),
    (100, 4),
    (128, 8),
    (160, 8),
    (200, 8),
    (256, 256),
    (500, 8),
    (1024, 8),
    (1100, 16),
    (2000, 8),
    (4096, 4096),
    (5000, 8),
    (8000, 8),
    (12_000, 8),
    (16_384, 16),
    (32_768, 8),
    (33_000, 8),
    (65_536, 65_536),
    (100_000, 8),
    (200_000, 8),
    (262_144, 8),
    (300_000, 8),
    (400_000, 131_072),
    (700_000, 8),
    (1_500_000, 8),
];
/// Layouts up to this one are worth a thought only as to speed.
const SMALL: usize = 23;

/// A live object: its address and, in the bits that no address has, the number of its layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object(pub u64);

impl Object {
    /// Allocates with the layout that `pick` chooses, mostly a small one; none when out of memory.
    pub fn allocate(pick: u64) -> Option<Object> {
        let layout = match pick % 64 {
            0 => (pick >> 8) as usize % LAYOUTS.len(),
            _ => (pick >> 8) as usize % SMALL,
        };
        let (size, align) = LAYOUTS[layout];
        let zeroed = pick >> 60 == 0;
        let address = match zeroed {
            true => rsalloc_core::allocate_zeroed(size, align),
            false => rsalloc_core::allocate_aligned(size, align),
        } as usize;
        if address == 0 {
            return None;
        }
        assert_eq!(address % align, 0, "alignment {align} of {size} B");
        if zeroed {
            // SAFETY: a live object of that size.
            let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, size) };
            assert!(bytes.iter().all(|&byte| byte == 0), "{size} B were not zeroed");
        }
        let object = Object(address as u64 | (layout as u64) << 56);
        shadow_take(address);
        object.fill();
        Some(object)
    }

    /// Checks the contents and frees: by size or by look-up, as `pick` says.
    pub fn free(self, pick: u64) {
        self.verify();
        shadow_give(self.address());
        let (size, align) = self.layout();
        let pointer = self.address() as *mut u8;
        // SAFETY: live, with its layout.
        unsafe {
            match pick % 2 {
                0 => rsalloc_core::free(pointer),
                _ => rsalloc_core::free_sized(pointer, size, align),
            }
        }
    }

    /// Gives the object another layout of the same alignment, keeping its contents.
    pub fn reallocate(self, pick: u64) -> Object {
        self.verify();
        let (size, align) = self.layout();
        let candidates = || (0..LAYOUTS.len()).filter(|&other| LAYOUTS[other].1 == align);
        let nth = pick as usize % candidates().count();
        let Some(other) = candidates().nth(nth) else { return self };
        shadow_give(self.address());
        let wanted = LAYOUTS[other].0;
        // SAFETY: live, with its layout.
        let moved = unsafe {
            rsalloc_core::reallocate_sized(self.address() as *mut u8, size, align, wanted)
        } as usize;
        assert!(moved != 0, "reallocate gave null");
        shadow_take(moved);
        let kept = size.min(wanted).min(8);
        let before = self.pattern().to_ne_bytes();
        // SAFETY: a live object of at least that many bytes.
        let head = unsafe { std::slice::from_raw_parts(moved as *const u8, kept) };
        assert_eq!(head, &before[..kept], "reallocate kept the contents");
        let object = Object(moved as u64 | (other as u64) << 56);
        object.fill();
        object
    }

    fn address(self) -> usize {
        (self.0 & !(0xFF << 56)) as usize
    }

    fn layout(self) -> (usize, usize) {
        LAYOUTS[(self.0 >> 56) as usize]
    }

    fn pattern(self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
    }

    /// The words that are filled: the first ones, and the last.
    fn words(self) -> impl Iterator<Item = usize> {
        let words = self.layout().0 / 8;
        (0..words.min(8)).chain(words.saturating_sub(1)..words)
    }

    fn fill(self) {
        let pointer = self.address() as *mut u64;
        for word in self.words() {
            // SAFETY: inside a live object, aligned to 8.
            unsafe { pointer.add(word).write_volatile(self.pattern()) };
        }
        if self.layout().0 < 8 {
            // SAFETY: a live object of at least one byte.
            unsafe { (pointer as *mut u8).write_volatile(self.pattern().to_ne_bytes()[0]) };
        }
    }

    /// Panics if another owner wrote to the object.
    pub fn verify(self) {
        let pointer = self.address() as *const u64;
        for word in self.words() {
            // SAFETY: as in `fill`.
            let seen = unsafe { pointer.add(word).read_volatile() };
            assert_eq!(seen, self.pattern(), "word {word} of {:#x} {:?}", self.0, self.layout());
        }
    }
}

/// A bit for each 8 bytes of the page-map range.
static SHADOW: AtomicUsize = AtomicUsize::new(0);
const SHADOW_BYTES: usize = 1 << (PAGE_MAP_SHIFT - 6);

/// Starts the engine and maps the shadow.
pub fn start() {
    let first = rsalloc_core::allocate(1);
    assert!(!first.is_null());
    // SAFETY: a new mapping, touched sparsely.
    let shadow = unsafe {
        rsalloc_core::free(first);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), SHADOW_BYTES, prot, flags, -1, 0)
    };
    assert_ne!(shadow, libc::MAP_FAILED, "no room for the shadow");
    SHADOW.store(shadow as usize, Ordering::Relaxed);
}

fn shadow_bit(address: usize) -> Option<(&'static AtomicU64, u64)> {
    let offset = address.wrapping_sub(HOT.page_map_base.load(Ordering::Relaxed));
    (offset >> PAGE_MAP_SHIFT == 0).then(|| {
        let bit = offset / 8;
        let word = (SHADOW.load(Ordering::Relaxed) + bit / 64 * 8) as *const AtomicU64;
        // SAFETY: inside the shadow, which is mapped for ever.
        (unsafe { &*word }, 1 << (bit % 64))
    })
}

fn shadow_take(address: usize) {
    if let Some((word, bit)) = shadow_bit(address) {
        assert_eq!(word.fetch_or(bit, Ordering::AcqRel) & bit, 0, "{address:#x} given out twice");
    }
}

fn shadow_give(address: usize) {
    if let Some((word, bit)) = shadow_bit(address) {
        assert_ne!(word.fetch_and(!bit, Ordering::AcqRel) & bit, 0, "{address:#x} is not out");
    }
}

/// A small generator of numbers, good enough for tests.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// As `assert`, without the allocations of a panic's message: libc's heap may be locked in a child.
pub fn expect(fine: bool, what: &str) {
    if !fine {
        // SAFETY: writes a text and ends the child.
        unsafe {
            libc::write(2, what.as_ptr().cast(), what.len());
            libc::abort();
        }
    }
}

/// Allocates, checks and frees until `stop`. Keeps its objects on the stack.
pub fn work(mut random: Random, mut stop: impl FnMut() -> bool) {
    let mut kept = [None::<Object>; 64];
    while !stop() {
        let pick = random.next();
        let slot = &mut kept[pick as usize % 64];
        match slot.take() {
            Some(object) => object.free(pick >> 32),
            None => *slot = Object::allocate(random.next()),
        }
    }
    kept.into_iter().flatten().for_each(|object| object.free(random.next()));
}
