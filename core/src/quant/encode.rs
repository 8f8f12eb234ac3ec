//! Encoding, for tests, for the key-value cache and for weights made on the fly.

use bytemuck::Pod;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::legacy::{Q4_0, Q8_0};
use crate::tensor::DType;

/// A type that is only read. Pass one of `F32`, `F16`, `BF16`, `Q8_0`, `Q4_0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be written, only F32, F16, BF16, Q8_0 and Q4_0")]
pub struct NoEncoder(pub DType);

/// Encodes `values` into the blocks `out`, rounding as ggml's `quantize_row_*_ref` does.
///
/// A NaN or an infinity is kept by `F32`, `F16` and `BF16`, and makes the scale of its whole block infinite or NaN
/// in the others. So does a value beyond the scale's range, about 8.3 million for `Q8_0` and 524 thousand for
/// `Q4_0`; `F16` turns values from 65520 up into infinities.
///
/// # Errors
///
/// [`NoEncoder`] for all types but `F32`, `F16`, `BF16`, `Q8_0` and `Q4_0`.
///
/// # Panics
///
/// If `values` is no whole number of blocks, or `out` has not exactly their bytes.
pub fn encode(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), NoEncoder> {
    assert_eq!(dtype.row_bytes(values.len()), Some(out.len()), "{dtype}: bytes of {} values", values.len());
    match dtype {
        DType::F32 => each(values, out, f32::to_le_bytes),
        DType::F16 => f16_row(values, out),
        DType::BF16 => each(values, out, bf16),
        DType::Q8_0 => row(values, out, q8_0),
        DType::Q4_0 => row(values, out, q4_0),
        _ => return Err(NoEncoder(dtype)),
    }
    Ok(())
}

/// Encodes blocks of 32 values; both slices have been checked to hold as many.
fn row<B: Pod>(values: &[f32], out: &mut [u8], block: impl Fn(&[f32; 32]) -> B) {
    for (values, out) in values.as_chunks().0.iter().zip(bytemuck::cast_slice_mut(out)) {
        *out = block(values);
    }
}

/// Encodes values that stand alone, in `N` bytes each.
fn each<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (&value, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = bytes(value);
    }
}

/// To the nearest half, ties to even; a slice at a time, which is where `half` uses the hardware well.
fn f16_row(values: &[f32], out: &mut [u8]) {
    const CHUNK: usize = 64;
    let mut halves = [f16::ZERO; CHUNK];
    for (values, out) in values.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)) {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        for (half, out) in halves.iter().zip(out.as_chunks_mut().0) {
            *out = half.to_le_bytes();
        }
    }
}

/// To the nearest bfloat16, ties to even. A NaN stays one, quiet.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let [.., low, high] = if value.is_nan() { bits | 0x40_0000 } else { nearest }.to_le_bytes();
    [low, high]
}

/// `d` is the largest magnitude / 127, `q` the nearest to `value / d`, ties away from zero.
///
/// The division is a product with `1 / d`, and `d` is rounded to a half only after it, as in ggml.
#[expect(
    clippy::cast_possible_truncation,
    reason = "at most 127, and anything where the block has no finite scale"
)]
fn q8_0(values: &[f32; 32]) -> Q8_0 {
    // Truncation after adding the number below one half is `f32::round`, without a call for each value.
    const BELOW_HALF: f32 = 0.5f32.next_down();
    let d = largest(values) / 127.0;
    let inverse = inverse(d);
    let mut q = [0; 32];
    for (q, value) in q.iter_mut().zip(values) {
        let quotient = value * inverse;
        *q = (quotient + BELOW_HALF.copysign(quotient)) as i8;
    }
    Q8_0 { d: f16::from_f32(d).to_le_bytes(), q }
}

/// `d` is the value of the largest magnitude / -8, the first of several; `q` is `value / d + 8`, rounded half up
/// and at most 15.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is the rounding; at least 0, and anything where the block has no finite scale"
)]
fn q4_0(values: &[f32; 32]) -> Q4_0 {
    let largest = largest(values).to_bits();
    let largest = values.iter().find(|value| value.abs().to_bits() == largest);
    let d = largest.expect("the largest magnitude is one of them") / -8.0;
    let inverse = inverse(d);
    let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(16);
    let mut q = [0; 16];
    for (q, (&low, &high)) in q.iter_mut().zip(low.iter().zip(high)) {
        *q = code(low) | code(high) << 4;
    }
    Q4_0 { d: f16::from_f32(d).to_le_bytes(), q }
}

/// The largest magnitude, a NaN if there is one: as integers, magnitudes have the same order, and NaNs are last.
fn largest(values: &[f32; 32]) -> f32 {
    f32::from_bits(values.iter().map(|value| value.abs().to_bits()).fold(0, u32::max))
}

/// 1 / d, or 0 for a block of zeros.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}
