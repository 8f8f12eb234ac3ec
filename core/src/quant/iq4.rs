//! Types of four bits that are numbers of a codebook, with more values near zero.
#![expect(
    clippy::inline_always,
    reason = "a SIMD dispatch enables instructions only for what is inlined into it"
)]

use bytemuck::{Pod, Zeroable};

use super::{Block, f16, nibbles, scale};

/// The codebook of `IQ4_NL` and `IQ4_XS`: `kvalues_iq4nl` of ggml.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `d * IQ4_VALUES[q]`, 18 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct IQ4_NL {
    /// f16.
    d: [u8; 2],
    /// Low nibbles: values 0..16; high nibbles: values 16..32.
    q: [u8; 16],
}

impl Block<32> for IQ4_NL {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        scale(f16(self.d), lookup(&IQ4_VALUES, nibbles(self.q)), out);
    }
}

/// `d * (s - 32) * IQ4_VALUES[q]` with a scale `s` of six bits per 32 values, 136 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct IQ4_XS {
    /// f16.
    d: [u8; 2],
    /// u16, bits `2g` and `2g + 1` are the upper bits of scale `g`.
    scales_high: [u8; 2],
    /// The lower four bits of the scales, alternating: scale `2g` is the low nibble of byte `g`.
    scales_low: [u8; 4],
    /// Groups of 32 values. Low nibbles: values 0..16 of the group; high nibbles: values 16..32.
    q: [[u8; 16]; 8],
}

impl Block<256> for IQ4_XS {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16(self.d);
        let low = u32::from_le_bytes(self.scales_low);
        let high = u32::from(u16::from_le_bytes(self.scales_high));
        for (g, (q, out)) in self.q.iter().zip(out.as_chunks_mut::<32>().0).enumerate() {
            let s = low >> (4 * g) & 15 | (high >> (2 * g) & 3) << 4;
            let d = d * (s.cast_signed() - 32) as f32;
            scale(d, lookup(&IQ4_VALUES, nibbles(*q)), out);
        }
    }
}

/// The value of each code: four rounds of choosing between neighbours by one bit. Table accesses are made value
/// by value; this is done for a whole vector of codes, at twice the speed with AVX-512 and slightly above it
/// without.
#[inline(always)]
pub(super) fn lookup<const N: usize>(table: &[i8; 16], codes: [u8; N]) -> [i8; N] {
    let mut values = [0; N];
    for (value, code) in values.iter_mut().zip(codes) {
        let mut left = *table;
        for bit in 0..4 {
            let odd = (code >> bit & 1).cast_signed().wrapping_neg();
            for i in 0..8 >> bit {
                left[i] = left[2 * i] ^ (left[2 * i] ^ left[2 * i + 1]) & odd;
            }
        }
        *value = left[0];
    }
    values
}
