//! Types of one scale per 32 values.
#![expect(
    clippy::inline_always,
    reason = "a SIMD dispatch enables instructions only for what is inlined into it"
)]

use bytemuck::{Pod, Zeroable};

use super::iq4::lookup;
use super::{Block, f16, nibbles, scale, scale_and_shift, signed};

/// The values of MXFP4's codes (E2M1), doubled to be whole: a block's scale is half of what its exponent says.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `d * (q - 8)`, 18 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_0 {
    /// f16.
    pub(super) d: [u8; 2],
    /// Low nibbles: values 0..16; high nibbles: values 16..32.
    pub(super) q: [u8; 16],
}

impl Block<32> for Q4_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        scale(f16(self.d), signed(nibbles(self.q), 8), out);
    }
}

/// `d * q + m`, 20 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_1 {
    /// f16.
    d: [u8; 2],
    /// f16.
    m: [u8; 2],
    /// Low nibbles: values 0..16; high nibbles: values 16..32.
    q: [u8; 16],
}

impl Block<32> for Q4_1 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        scale_and_shift(f16(self.d), f16(self.m), nibbles(self.q), out);
    }
}

/// `d * (q - 16)`, 22 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_0 {
    /// f16.
    d: [u8; 2],
    /// u32, bit `i` is the fifth bit of value `i`.
    h: [u8; 4],
    /// The lower four bits. Low nibbles: values 0..16; high nibbles: values 16..32.
    q: [u8; 16],
}

impl Block<32> for Q5_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        scale(f16(self.d), signed(five_bits(self.h, self.q), 16), out);
    }
}

/// `d * q + m`, 24 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_1 {
    /// f16.
    d: [u8; 2],
    /// f16.
    m: [u8; 2],
    /// u32, bit `i` is the fifth bit of value `i`.
    h: [u8; 4],
    /// The lower four bits. Low nibbles: values 0..16; high nibbles: values 16..32.
    q: [u8; 16],
}

impl Block<32> for Q5_1 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        scale_and_shift(f16(self.d), f16(self.m), five_bits(self.h, self.q), out);
    }
}

/// The nibbles of `q`, value `i` with bit `i` of `h` above it.
#[inline(always)]
fn five_bits(h: [u8; 4], q: [u8; 16]) -> [u8; 32] {
    let mut q: [u8; 32] = nibbles(q);
    for (i, q) in q.iter_mut().enumerate() {
        *q |= u8::from(h[i / 8] & 1 << (i % 8) != 0) << 4;
    }
    q
}

/// `d * q`, 34 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q8_0 {
    /// f16.
    pub(super) d: [u8; 2],
    /// The values.
    pub(super) q: [i8; 32],
}

impl Block<32> for Q8_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        scale(f16(self.d), self.q, out);
    }
}

/// `2^(e - 128) * MXFP4_VALUES[q]`, 17 bytes. As in ggml, `e` = 255 is no NaN.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MXFP4 {
    /// Exponent.
    e: u8,
    /// Low nibbles: values 0..16; high nibbles: values 16..32.
    q: [u8; 16],
}

impl Block<32> for MXFP4 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let e = u32::from(self.e);
        // Below 2^-126 the scale itself is subnormal: 2^-128 and 2^-127 are single bits of the fraction.
        let d = f32::from_bits(if e < 2 { 1 << (21 + e) } else { (e - 1) << 23 });
        scale(d, lookup(&MXFP4_VALUES, nibbles(self.q)), out);
    }
}
