//! Element types of the KV cache: how one head vector of K or V becomes bytes, and back.
//!
//! | type | values a block | bytes a block | block |
//! |---|---|---|---|
//! | `f32` | 1 | 4 | as computed; for comparisons, not for saving memory |
//! | `f16` | 1 | 2 | IEEE half |
//! | `q8_0` | 32 | 34 | f16 scale `d`, then 32 `i8`; value `q * d` |
//! | `q4_0` | 32 | 18 | f16 scale `d`, then 16 bytes; element `i` is the low nibble of byte `i`, element `i + 16` the high one; value `(q - 8) * d` |
//! | `tq3_0` | 128 | 56 | see [`tq3`] |
//!
//! All numbers are little endian. Blocks run along the head dimension and never cross heads. `q8_0` and
//! `q4_0` are ggml's formats, with ggml's rounding, so a cache holds what llama.cpp's would.
//!
//! `tq3_0` keeps vectors in a rotated domain and [`KvType::decode`] leaves them there. Whoever attends over
//! such keys rotates the query first ([`tq3::rotate`]); whoever sums such values un-rotates the sum
//! ([`tq3::unrotate`]), once per query head. Each side follows its own type: see [`KvType::rotated`].

use std::fmt;
use std::str::FromStr;

use half::f16;
use half::slice::HalfFloatSliceExt;

pub mod tq3;

/// Values in one block of `q8_0` or `q4_0`.
const BLOCK: usize = 32;
const Q8_0_BYTES: usize = 2 + BLOCK;
const Q4_0_BYTES: usize = 2 + BLOCK / 2;

/// The largest finite f16. Scales, norms and f16 elements saturate here instead of becoming infinite.
const F16_MAX: f32 = 65504.0;

/// How the vectors of K, or of V, are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KvType {
    /// 32 bits a value: nothing is lost, so that errors of everything else can be seen.
    F32,
    /// 16 bits a value.
    F16,
    /// 8.5 bits a value.
    Q8_0,
    /// 4.5 bits a value.
    Q4_0,
    /// 3.5 bits a value, in the rotated domain of [`tq3`].
    TQ3_0,
}

impl KvType {
    /// Every type, largest first.
    pub const ALL: [KvType; 5] = [KvType::F32, KvType::F16, KvType::Q8_0, KvType::Q4_0, KvType::TQ3_0];

    /// The name that [`FromStr`] reads and [`Display`](fmt::Display) writes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
            KvType::TQ3_0 => "tq3_0",
        }
    }

    /// Values in the smallest piece that is stored by itself; a head dimension is a multiple of it.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            KvType::F32 | KvType::F16 => 1,
            KvType::Q8_0 | KvType::Q4_0 => BLOCK,
            KvType::TQ3_0 => tq3::GROUP,
        }
    }

    /// Bytes of [`block_len`](Self::block_len) values.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => Q8_0_BYTES,
            KvType::Q4_0 => Q4_0_BYTES,
            KvType::TQ3_0 => tq3::GROUP_BYTES,
        }
    }

    /// Bits a value takes, its share of the scales included.
    #[must_use]
    pub const fn bits(self) -> f64 {
        (self.block_bytes() * 8) as f64 / self.block_len() as f64
    }

    /// Bytes of one head vector of `head_dim` values; `None` if blocks do not fill it or the product overflows.
    #[must_use]
    pub const fn row_bytes(self, head_dim: usize) -> Option<usize> {
        if !head_dim.is_multiple_of(self.block_len()) {
            return None;
        }
        (head_dim / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether vectors are stored in the rotated domain of [`tq3`].
    ///
    /// If K is, the query is rotated before the dot products; if V is, the weighted sum is un-rotated
    /// after them. Neither side's answer says anything about the other's.
    #[must_use]
    pub const fn rotated(self) -> bool {
        matches!(self, KvType::TQ3_0)
    }

    /// Stores one or more whole head vectors, rotating them first if the type is [`rotated`](Self::rotated).
    ///
    /// Values beyond what a type can hold saturate. On an error `out` is left as it was.
    ///
    /// # Errors
    ///
    /// If a value is infinite or not a number: a cache would hand it to every later token.
    ///
    /// # Panics
    ///
    /// If `out.len()` is not `self.row_bytes(values.len())`.
    pub fn encode(self, values: &[f32], out: &mut [u8]) -> Result<(), NotFinite> {
        self.check_lengths(values.len(), out.len());
        // No early exit: a plain sum of comparisons is what the compiler vectorises.
        if !values.iter().fold(true, |finite, v| finite & v.is_finite())
            && let Some(index) = values.iter().position(|v| !v.is_finite())
        {
            let value = values[index];
            return Err(NotFinite { index, value });
        }
        match self {
            KvType::F32 => encode_f32(values, out),
            KvType::F16 => encode_f16(values, out),
            KvType::Q8_0 => encode_blocks(values, out, encode_q8_0),
            KvType::Q4_0 => encode_blocks(values, out, encode_q4_0),
            KvType::TQ3_0 => encode_blocks(values, out, tq3::encode_group),
        }
        Ok(())
    }

    /// Reads what [`encode`](Self::encode) stored, in the domain it is stored in: `tq3_0` stays rotated.
    ///
    /// Any bytes decode; those that `encode` never wrote may give infinities or NaN.
    ///
    /// # Panics
    ///
    /// If `bytes.len()` is not `self.row_bytes(out.len())`.
    #[inline]
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        self.check_lengths(out.len(), bytes.len());
        match self {
            KvType::F32 => decode_f32(bytes, out),
            KvType::F16 => decode_f16(bytes, out),
            KvType::Q8_0 => decode_blocks(bytes, out, decode_q8_0),
            KvType::Q4_0 => decode_blocks(bytes, out, decode_q4_0),
            KvType::TQ3_0 => decode_blocks(bytes, out, tq3::decode_group),
        }
    }

    fn check_lengths(self, values: usize, bytes: usize) {
        assert_eq!(self.row_bytes(values), Some(bytes), "{self}: wrong number of bytes for {values} values");
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvType {
    type Err = UnknownKvType;

    /// Reads a [`name`](Self::name), or `tq3` for `tq3_0`.
    fn from_str(text: &str) -> Result<Self, UnknownKvType> {
        let full = if text == "tq3" { "tq3_0" } else { text };
        Self::ALL
            .into_iter()
            .find(|t| t.name() == full)
            .ok_or_else(|| UnknownKvType { found: text.to_owned() })
    }
}

/// A name that is no [`KvType`]: use one of those that the message lists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a type of KV cache, expected f32, f16, q8_0, q4_0 or tq3_0")]
pub struct UnknownKvType {
    /// What was read.
    pub found: String,
}

/// A value that a KV cache must not hold: whatever computed it has gone wrong before.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("value {index} of a KV vector is {value}, expected a finite number")]
pub struct NotFinite {
    /// Index of the first such value among those to be stored.
    pub index: usize,
    /// Infinite or NaN.
    pub value: f32,
}

fn encode_blocks<const N: usize, const B: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: fn(&[f32; N], &mut [u8; B]),
) {
    for (x, block) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode(x, block);
    }
}

#[inline]
fn decode_blocks<const N: usize, const B: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (block, x) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, x);
    }
}

/// Values that one conversion call handles: `half` looks for the CPU's instruction once a call.
const F16_RUN: usize = 64;

fn encode_f32(values: &[f32], out: &mut [u8]) {
    for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

#[inline]
fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

fn encode_f16(values: &[f32], out: &mut [u8]) {
    for (x, bytes) in values.chunks(F16_RUN).zip(out.chunks_mut(2 * F16_RUN)) {
        let mut clamped = [0.0; F16_RUN];
        let mut halves = [f16::ZERO; F16_RUN];
        for (to, from) in clamped.iter_mut().zip(x) {
            *to = from.clamp(-F16_MAX, F16_MAX);
        }
        halves.convert_from_f32_slice(&clamped);
        for (to, from) in bytes.as_chunks_mut().0.iter_mut().zip(halves) {
            *to = from.to_le_bytes();
        }
    }
}

#[inline]
fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (bytes, x) in bytes.chunks(2 * F16_RUN).zip(out.chunks_mut(F16_RUN)) {
        let mut halves = [f16::ZERO; F16_RUN];
        for (to, from) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *to = f16::from_le_bytes(*from);
        }
        halves[..x.len()].convert_to_f32_slice(x);
    }
}

/// The multiplier that takes values to steps of `d`: 0 where the step is 0 or so small that dividing overflows.
fn inverse_step(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// `quantize_row_q8_0_ref` of ggml: the step is not rounded to f16 before it divides, halves go away from 0.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a saturating cast of at most 127 in magnitude, but for rounding"
)]
fn encode_q8_0(x: &[f32; BLOCK], out: &mut [u8; Q8_0_BYTES]) {
    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = (largest / 127.0).min(F16_MAX);
    let inverse = inverse_step(d);
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (q, v) in out[2..].iter_mut().zip(x) {
        *q = ((v * inverse).round().clamp(-127.0, 127.0) as i8).cast_unsigned();
    }
}

#[inline]
fn decode_q8_0(block: &[u8; Q8_0_BYTES], out: &mut [f32; BLOCK]) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    for (v, q) in out.iter_mut().zip(&block[2..]) {
        *v = f32::from(q.cast_signed()) * d;
    }
}

/// `quantize_row_q4_0_ref` of ggml: the first value of largest magnitude, whatever its sign, becomes step -8.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=15; the cast rounds down, which is how ggml rounds"
)]
fn encode_q4_0(x: &[f32; BLOCK], out: &mut [u8; Q4_0_BYTES]) {
    let largest = x.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let d = (largest / -8.0).clamp(-F16_MAX, F16_MAX);
    let inverse = inverse_step(d);
    let nibble = |v: f32| (v * inverse + 8.5).clamp(0.0, 15.0) as u8;
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let (low, high) = x.split_at(BLOCK / 2);
    for (q, (low, high)) in out[2..].iter_mut().zip(low.iter().zip(high)) {
        *q = nibble(*low) | nibble(*high) << 4;
    }
}

#[inline]
fn decode_q4_0(block: &[u8; Q4_0_BYTES], out: &mut [f32; BLOCK]) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = f32::from((q & 15).cast_signed() - 8) * d;
        *high = f32::from((q >> 4).cast_signed() - 8) * d;
    }
}

#[cfg(test)]
mod tests;
