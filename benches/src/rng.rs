//! A small random number generator (SplitMix64: Steele, Lea, Flood, OOPSLA 2014): the same numbers
//! for every allocator, no state outside itself, a few cycles a number.

/// The generator.
pub struct Rng(u64);

impl Rng {
    /// A generator whose numbers depend on `seed` only.
    pub fn new(seed: usize) -> Self {
        Rng(seed as u64)
    }

    /// A number below `limit`, which is below 2^32; all about equally likely.
    #[inline(always)]
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize * limit) >> 32
    }

    #[inline(always)]
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
