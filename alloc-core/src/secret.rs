//! Numbers derived from the kernel's random bytes that reveal nothing of the bytes.
//!
//! libc makes the stack protector and the pointer guard from the same 16 bytes. The derived numbers are visible, in each
//! address of the heap, so they go through a hash: SipHash-2-4 (Aumasson and Bernstein, 2012) with a constant key. All 16 bytes
//! go in, so an attacker that inverts the hash still has 64 unknown bits for each guess of the others.

/// What a number is for; numbers for two purposes are unrelated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// Where the page-map range lies.
    PageMap = 1,
    /// The key of the canaries.
    Canary = 2,
}

/// The number for `purpose`, derived from `random`.
pub fn derive(random: [u8; 16], purpose: Purpose) -> u64 {
    let (low, high) = random.split_at(8);
    let word = |half: &[u8]| half.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    // "rsalloc" and the purpose.
    sip(u64::from_le_bytes(*b"rsalloc\0"), purpose as u64, [word(low), word(high)])
}

/// SipHash-2-4 of a message of two words.
fn sip(k0: u64, k1: u64, message: [u64; 2]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The last word is the length in its high byte.
    for word in [message[0], message[1], 16 << 56] {
        v[3] ^= word;
        (0..2).for_each(|_| round(&mut v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's vectors for keys and messages of ascending bytes: this one has 16.
    #[test]
    fn the_hash_is_siphash() {
        let [k0, k1] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(sip(k0, k1, [k0, k1]), 0x3f2a_cc7f_57c2_9bdb);
    }

    #[test]
    fn each_bit_of_the_bytes_counts_and_each_purpose_is_its_own() {
        let mut random: [u8; 16] = core::array::from_fn(|i| (i as u8).wrapping_mul(29));
        let before = derive(random, Purpose::PageMap);
        assert_ne!(before, derive(random, Purpose::Canary));
        for bit in 0..128 {
            random[bit / 8] ^= 1 << (bit % 8);
            let changed = (derive(random, Purpose::PageMap) ^ before).count_ones();
            assert!((10..55).contains(&changed), "bit {bit} changes {changed}");
            random[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
