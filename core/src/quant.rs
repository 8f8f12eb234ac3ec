//! What the bytes of a weight mean: decoding of every [`DType`], and encoding of the few that are written.
//!
//! A row is a sequence of blocks; all fields are little-endian and no field is aligned. `f16` is IEEE half.
//! The struct of each type in this module's files lists its fields in the order of the bytes, with the formula.
//!
//! | type | values | bytes | fields (bytes) |
//! |---|---|---|---|
//! | `F32`, `F16`, `BF16` | 1 | 4, 2, 2 | the value |
//! | `Q4_0` | 32 | 18 | `d` f16 (2), nibbles (16) |
//! | `Q4_1` | 32 | 20 | `d` f16 (2), `m` f16 (2), nibbles (16) |
//! | `Q5_0` | 32 | 22 | `d` f16 (2), fifth bits (4), nibbles (16) |
//! | `Q5_1` | 32 | 24 | `d` f16 (2), `m` f16 (2), fifth bits (4), nibbles (16) |
//! | `Q8_0` | 32 | 34 | `d` f16 (2), i8 (32) |
//! | `IQ4_NL` | 32 | 18 | `d` f16 (2), nibbles (16) |
//! | `MXFP4` | 32 | 17 | exponent (1), nibbles (16) |
//! | `Q2_K` | 256 | 84 | scales and mins (16), two bits each (64), `d` f16 (2), `dmin` f16 (2) |
//! | `Q3_K` | 256 | 110 | third bits (32), two bits each (64), scales (12), `d` f16 (2) |
//! | `Q4_K` | 256 | 144 | `d` f16 (2), `dmin` f16 (2), scales and mins (12), nibbles (128) |
//! | `Q5_K` | 256 | 176 | `d` f16 (2), `dmin` f16 (2), scales and mins (12), fifth bits (32), nibbles (128) |
//! | `Q6_K` | 256 | 210 | nibbles (128), fifth and sixth bits (64), scales i8 (16), `d` f16 (2) |
//! | `IQ4_XS` | 256 | 136 | `d` f16 (2), scales' high bits (2), scales' low bits (4), nibbles (128) |
//!
//! Nibbles are planar, never alternating: the low nibbles of a group of bytes are consecutive values, and the high
//! nibbles are the values after all of them.
//!
//! The formulas are those of ggml's `ggml-quants.c`. Each has one order of operations, so a value has the same bits
//! on every machine, up to the payload of a NaN.
#![expect(
    clippy::inline_always,
    reason = "a SIMD dispatch enables instructions only for what is inlined into it"
)]

use std::sync::atomic::{Ordering, compiler_fence};

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;

use crate::tensor::DType;

mod encode;
mod iq4;
mod k;
mod legacy;
#[cfg(test)]
mod tests;

pub use encode::{NoEncoder, encode};
pub use iq4::IQ4_VALUES;
pub use legacy::MXFP4_VALUES;

/// Decodes a row, or any whole number of blocks of one: `blocks` to the values `out`.
///
/// It is inlined as a whole, so that a `pulp` dispatch around it compiles it for the machine's instructions. That
/// takes a `WithSimd` whose `with_simd` is `#[inline(always)]`: a closure is not inlined into the dispatch, and
/// runs, as does any other caller, on the target's baseline, at half the speed.
///
/// No bytes are invalid: a scale that is NaN or infinite gives values that are.
///
/// # Panics
///
/// If `out` is no whole number of blocks, or `blocks` has not exactly their bytes.
#[inline(always)]
pub fn decode(dtype: DType, blocks: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.row_bytes(out.len()), Some(blocks.len()), "{dtype}: bytes of {} values", out.len());
    match dtype {
        DType::F32 => each(blocks, out, f32::from_le_bytes),
        DType::F16 => f16_row(blocks, out),
        DType::BF16 => each(blocks, out, bf16),
        DType::Q4_0 => row::<legacy::Q4_0, 32>(blocks, out),
        DType::Q4_1 => row::<legacy::Q4_1, 32>(blocks, out),
        DType::Q5_0 => row::<legacy::Q5_0, 32>(blocks, out),
        DType::Q5_1 => row::<legacy::Q5_1, 32>(blocks, out),
        DType::Q8_0 => row::<legacy::Q8_0, 32>(blocks, out),
        DType::Q2_K => row::<k::Q2_K, 256>(blocks, out),
        DType::Q3_K => row::<k::Q3_K, 256>(blocks, out),
        DType::Q4_K => row::<k::Q4_K, 256>(blocks, out),
        DType::Q5_K => row::<k::Q5_K, 256>(blocks, out),
        DType::Q6_K => row::<k::Q6_K, 256>(blocks, out),
        DType::IQ4_NL => row::<iq4::IQ4_NL, 32>(blocks, out),
        DType::IQ4_XS => row::<iq4::IQ4_XS, 256>(blocks, out),
        DType::MXFP4 => row::<legacy::MXFP4, 32>(blocks, out),
    }
}

/// A block of `N` values: a struct of byte arrays, in the order of the file.
///
/// Decoders are written in the form that LLVM turns into vector instructions. They unpack codes into arrays of
/// their own, as bytes, of which a vector holds many; numbers are made last, and `out` is only stored to. When all
/// is inlined nothing tells LLVM that `out` overlaps neither the block nor the codes, so a store between two loads
/// keeps it from joining them. `array::map` is a call inside a dispatch, hence the loops.
trait Block<const N: usize>: Pod {
    /// The values of the block.
    fn decode(&self, out: &mut [f32; N]);
}

/// Decodes blocks one after another.
#[inline(always)]
fn row<B: Block<N>, const N: usize>(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in bytemuck::cast_slice::<u8, B>(blocks).iter().zip(out.as_chunks_mut().0) {
        block.decode(out);
        // No instruction, but it ends the loop's body for the vectoriser, which otherwise takes one value of each
        // of several blocks into a vector, at a small part of the speed.
        compiler_fence(Ordering::SeqCst);
    }
}

/// Decodes values that stand alone, of `N` bytes each.
#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: fn([u8; N]) -> f32) {
    for (&bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = value(bytes);
    }
}

/// A bfloat16: the upper half of an `f32`.
#[inline(always)]
fn bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// One half, by the machine's conversion where it has one.
#[inline(always)]
fn f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// A row of halves. They need not be aligned in the file, so they pass through an aligned array.
///
/// `half` finds the machine's vector instructions for a slice by itself. It is kept out of a dispatch because some
/// levels break its conversion into calls, at a tenth of the speed.
#[inline(never)]
fn f16_row(bytes: &[u8], out: &mut [f32]) {
    const CHUNK: usize = 256;
    let mut halves = [half::f16::ZERO; CHUNK];
    for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
        let halves = &mut halves[..out.len()];
        for (half, &bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = half::f16::from_le_bytes(bytes);
        }
        halves.convert_to_f32_slice(out);
    }
}

/// The nibbles of `HALF` bytes: all low ones, then all high ones.
#[inline(always)]
fn nibbles<const HALF: usize, const N: usize>(bytes: [u8; HALF]) -> [u8; N] {
    const { assert!(N == 2 * HALF) };
    let mut codes = [0; N];
    for (i, byte) in bytes.into_iter().enumerate() {
        codes[i] = byte & 15;
        codes[HALF + i] = byte >> 4;
    }
    codes
}

/// `q - zero` of all codes.
#[inline(always)]
fn signed<const N: usize>(q: [u8; N], zero: i8) -> [i8; N] {
    let mut values = [0; N];
    for (value, q) in values.iter_mut().zip(q) {
        *value = q.cast_signed() - zero;
    }
    values
}

/// Stores `d * q`.
#[inline(always)]
fn scale<const N: usize>(d: f32, q: [i8; N], out: &mut [f32; N]) {
    for (out, q) in out.iter_mut().zip(q) {
        *out = d * f32::from(q);
    }
}

/// Stores `d * q + m`.
#[inline(always)]
fn scale_and_shift<const N: usize>(d: f32, m: f32, q: [u8; N], out: &mut [f32; N]) {
    for (out, q) in out.iter_mut().zip(q) {
        *out = d * f32::from(q) + m;
    }
}
