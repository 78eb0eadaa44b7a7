//! Calls of the front one by one: `alloc` and `dealloc` with a layout, and a growing vector.
//!
//! Each object is written when it is made and read before it goes.

use benches::client::Client;
use benches::loads::Load;
use benches::rng::Rng;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::hint::black_box;

const STEP: u64 = 10_000;

/// A live object of the global allocator.
struct Object {
    address: *mut u8,
    layout: Layout,
    tag: u8,
}

// SAFETY: the global allocator takes objects back from any thread.
unsafe impl Send for Object {}

impl Object {
    #[inline(always)]
    fn new(layout: Layout, tag: u8) -> Object {
        // SAFETY: no layout here has size 0.
        let address = unsafe { alloc(layout) };
        if address.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: a fresh object of at least a byte.
        unsafe { address.write_volatile(tag) };
        Object { address, layout, tag }
    }

    #[inline(always)]
    fn free(self) {
        // SAFETY: live, and allocated with this layout.
        unsafe {
            assert_eq!(
                self.address.read_volatile(),
                self.tag,
                "another owner wrote into an object"
            );
            dealloc(self.address, self.layout);
        }
    }
}

/// One object of one layout, allocated and freed over and over.
pub struct Same(Layout);

impl Same {
    /// Of `size` bytes at `align`.
    pub fn new(size: usize, align: usize) -> Self {
        Same(Layout::from_size_align(size, align).expect("a power of two"))
    }
}

impl Load for Same {
    fn step(&mut self, _client: &mut Client) -> u64 {
        for turn in 0..STEP {
            // The size is the compiler's to know, as in most Rust code; the object is not.
            black_box(Object::new(self.0, turn as u8)).free();
        }
        STEP
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// Random sizes at random places of a table.
pub struct Churn {
    objects: Vec<Option<Object>>,
    max: usize,
    rng: Rng,
}

impl Churn {
    /// `live` objects of up to `max` bytes.
    pub fn new(live: usize, max: usize) -> Self {
        Churn { objects: (0..live).map(|_| None).collect(), max, rng: Rng::new(1) }
    }
}

impl Load for Churn {
    fn step(&mut self, _client: &mut Client) -> u64 {
        for turn in 0..STEP {
            let place = self.rng.below(self.objects.len());
            let layout = Layout::from_size_align(1 + self.rng.below(self.max), 8).expect("8");
            if let Some(old) = self.objects[place].replace(Object::new(layout, turn as u8)) {
                old.free();
            }
        }
        STEP
    }
    fn finish(&mut self, _client: &mut Client) {
        self.objects.drain(..).flatten().for_each(Object::free);
    }
}

/// Vectors that grow by pushing.
pub struct Growth;

impl Load for Growth {
    fn step(&mut self, _client: &mut Client) -> u64 {
        const LEN: u64 = 64 << 10;
        let mut bytes = Vec::new();
        for value in 0..LEN {
            bytes.push(black_box(value as u8));
        }
        assert_eq!(black_box(&bytes)[1000], 1000_u64 as u8);
        LEN
    }
    fn finish(&mut self, _client: &mut Client) {}
}
