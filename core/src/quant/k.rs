//! Types of 256 values, with a scale per 16 or 32 values that is itself quantised.
#![expect(
    clippy::inline_always,
    reason = "a SIMD dispatch enables instructions only for what is inlined into it"
)]

use bytemuck::{Pod, Zeroable};

use super::{Block, f16, nibbles, scale, scale_and_shift, signed};

/// `d * s * q - dmin * m` with a scale `s` and a min `m` per 16 values, 84 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q2_K {
    /// Of 16 values each: the scale in the low nibble, the min in the high one.
    scales: [u8; 16],
    /// For each 128 values, 32 bytes: value `32 s + l` is bits `2s` and `2s + 1` of byte `l`.
    q: [[u8; 32]; 2],
    /// f16.
    d: [u8; 2],
    /// f16.
    dmin: [u8; 2],
}

impl Block<256> for Q2_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (f16(self.d), f16(self.dmin));
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let q = two_bits(self.q[g / 4], g % 4);
            for (i, (out, &q)) in out.as_chunks_mut().0.iter_mut().zip(q.as_chunks::<16>().0).enumerate() {
                let s = self.scales[2 * g + i];
                scale_and_shift(d * f32::from(s & 15), -(dmin * f32::from(s >> 4)), q, out);
            }
        }
    }
}

/// `d * (s - 32) * (q - 4)` with a scale `s` of six bits per 16 values, 110 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q3_K {
    /// Bit `b` of byte `l` is the upper bit of value `32 b + l`.
    h: [u8; 32],
    /// The lower two bits. For each 128 values, 32 bytes: value `32 s + l` is bits `2s` and `2s + 1` of byte `l`.
    q: [[u8; 32]; 2],
    /// Scales 0..8 and 8..16: their lower four bits are the low and the high nibbles of the first eight bytes;
    /// the upper bits of scale `4 i + j` are bits `2i` and `2i + 1` of byte `8 + j`.
    scales: [u8; 12],
    /// f16.
    d: [u8; 2],
}

impl Block<256> for Q3_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16(self.d);
        let [a, b, high] = words(self.scales);
        let scales = [
            a & 0x0f0f_0f0f | (high & 0x0303_0303) << 4,
            b & 0x0f0f_0f0f | (high >> 2 & 0x0303_0303) << 4,
            a >> 4 & 0x0f0f_0f0f | (high >> 4 & 0x0303_0303) << 4,
            b >> 4 & 0x0f0f_0f0f | (high >> 6 & 0x0303_0303) << 4,
        ];
        let mut q = [0; 256];
        for (g, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            *q = two_bits(self.q[g / 4], g % 4);
            for (q, h) in q.iter_mut().zip(self.h) {
                *q |= (h >> g & 1) << 2;
            }
        }
        let q = signed(q, 4);
        for (g, (out, &q)) in out.as_chunks_mut().0.iter_mut().zip(q.as_chunks::<16>().0).enumerate() {
            let s = scales[g / 4].to_le_bytes()[g % 4].cast_signed() - 32;
            scale(d * f32::from(s), q, out);
        }
    }
}

/// `d * s * q - dmin * m` with a scale `s` and a min `m` of six bits per 32 values, 144 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_K {
    /// f16.
    d: [u8; 2],
    /// f16.
    dmin: [u8; 2],
    /// See [`scales_and_mins`].
    scales: [u8; 12],
    /// Of 64 values each. Low nibbles: values 0..32; high nibbles: values 32..64.
    q: [[u8; 32]; 4],
}

impl Block<256> for Q4_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (scales, mins) = scales_and_mins(self.scales, f16(self.d), f16(self.dmin));
        for (c, (q, out)) in self.q.iter().zip(out.as_chunks_mut::<64>().0).enumerate() {
            let q: [u8; 64] = nibbles(*q);
            for (g, (&q, out)) in q.as_chunks::<32>().0.iter().zip(out.as_chunks_mut().0).enumerate() {
                let g = 2 * c + g;
                scale_and_shift(scales[g], -mins[g], q, out);
            }
        }
    }
}

/// `d * s * q - dmin * m` with a scale `s` and a min `m` of six bits per 32 values, 176 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_K {
    /// f16.
    d: [u8; 2],
    /// f16.
    dmin: [u8; 2],
    /// See [`scales_and_mins`].
    scales: [u8; 12],
    /// Bit `g` of byte `l` is the fifth bit of value `32 g + l`.
    h: [u8; 32],
    /// The lower four bits, of 64 values each. Low nibbles: values 0..32; high nibbles: values 32..64.
    q: [[u8; 32]; 4],
}

impl Block<256> for Q5_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (scales, mins) = scales_and_mins(self.scales, f16(self.d), f16(self.dmin));
        let mut q = [0; 256];
        for (q, low) in q.as_chunks_mut::<64>().0.iter_mut().zip(self.q) {
            *q = nibbles(low);
        }
        for (g, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, h) in q.iter_mut().zip(self.h) {
                *q |= (h >> g & 1) << 4;
            }
        }
        for (g, (out, &q)) in out.as_chunks_mut().0.iter_mut().zip(q.as_chunks::<32>().0).enumerate() {
            scale_and_shift(scales[g], -mins[g], q, out);
        }
    }
}

/// `d * s * (q - 32)` with a scale `s` per 16 values, 210 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q6_K {
    /// The lower four bits, of 128 values each: low nibbles are values 0..64, high nibbles values 64..128.
    low: [[u8; 64]; 2],
    /// The upper two bits, of 128 values each: value `32 s + l` has bits `2s` and `2s + 1` of byte `l`.
    high: [[u8; 32]; 2],
    /// Of 16 values each.
    scales: [[i8; 8]; 2],
    /// f16.
    d: [u8; 2],
}

impl Block<256> for Q6_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16(self.d);
        for (t, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let mut q: [u8; 128] = nibbles(self.low[t]);
            for (s, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (q, h) in q.iter_mut().zip(self.high[t]) {
                    *q |= (h >> (2 * s) & 3) << 4;
                }
            }
            let q = signed(q, 32);
            for (g, (&q, out)) in q.as_chunks::<16>().0.iter().zip(out.as_chunks_mut().0).enumerate() {
                scale(d * f32::from(self.scales[t][g]), q, out);
            }
        }
    }
}

/// `d * s` and `dmin * m` of the eight groups of 32 values of a `Q4_K` or `Q5_K` block.
///
/// Of the first four groups, `s` is the lower six bits of bytes 0..4 and `m` of bytes 4..8. Of the last four, the
/// lower four bits are the low (`s`) and the high (`m`) nibbles of bytes 8..12, and the upper two bits are those
/// that the first four groups left in bytes 0..4 (`s`) and 4..8 (`m`).
#[inline(always)]
fn scales_and_mins(bytes: [u8; 12], d: f32, dmin: f32) -> ([f32; 8], [f32; 8]) {
    let [a, b, c] = words(bytes);
    let scales = [a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030];
    let mins = [b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030];
    (scaled(d, eight_bytes(scales)), scaled(dmin, eight_bytes(mins)))
}

/// Twelve bytes, four to a word, to work on four of them at once.
#[inline(always)]
fn words(bytes: [u8; 12]) -> [u32; 3] {
    let mut words = [0; 3];
    for (word, &bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(bytes);
    }
    words
}

/// The bytes of two words.
#[inline(always)]
fn eight_bytes([low, high]: [u32; 2]) -> [u8; 8] {
    (u64::from(low) | u64::from(high) << 32).to_le_bytes()
}

/// Bits `2s` and `2s + 1` of all bytes.
#[inline(always)]
fn two_bits<const N: usize>(mut bytes: [u8; N], s: usize) -> [u8; N] {
    for byte in &mut bytes {
        *byte = *byte >> (2 * s) & 3;
    }
    bytes
}

/// `d * s` of every `s`.
#[inline(always)]
fn scaled<const N: usize>(d: f32, s: [u8; N]) -> [f32; N] {
    let mut values = [0.0; N];
    for (value, s) in values.iter_mut().zip(s) {
        *value = d * f32::from(s);
    }
    values
}
