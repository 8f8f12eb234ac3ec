//! `TQ3_0`: 3-bit codebook indices of randomly rotated vectors, one norm per group of 128.
//!
//! A head vector is cut into groups of [`GROUP`] values; nothing crosses groups. With
//! `R = diag(s2) H diag(s1)`, where `H[i][j] = (-1)^popcount(i & j) / sqrt(128)`:
//!
//! ```text
//! encode:  g = |x|;  u = R (x / g), or 0 if g is tiny
//!          index[j] = thresholds that are <= u[j];  c[j] = CENTROIDS[index[j]]
//!          norm = f16(g / |c|)          so that the decoded group is as long as x
//! decode:  CENTROIDS[index[j]] * norm   which is close to R x, not to x
//! ```
//!
//! The inverse `diag(s1) H diag(s2)` is not part of decoding: dot products with `R q` need no inverse, and a
//! weighted sum of values needs only one. `R` is orthogonal but not symmetric: [`rotate`] is not [`unrotate`].
//! It mixes channels, so it comes after the norms and after the rotary embedding.
//!
//! # Layout
//!
//! A group is four blocks of 32 values and 14 bytes ([`BLOCK_BYTES`]), 3.5 bits a value:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 2 | norm, f16 little endian, the same in all four blocks; readers use the first |
//! | 2 | 8 | bits 1..0 of the indices: element `j` at bits `2 * (j % 4)` of byte `j / 4` |
//! | 10 | 4 | bit 2 of the indices: element `j` at bit `j % 8` of byte `j / 8` |
//!
//! Indices count the centroids upwards, so bit 2 is 1 for positive values. The low bits are *not* a magnitude:
//! among negative values they run from the largest (0) to the smallest (3).
//!
//! At least seven other formats share the name or the 14 bytes. Centroids, thresholds, signs and layout here
//! are those of ggml's `block_tq3_0` in the fork that lucebox-hub builds on (block-32 `turbo3_0` elsewhere),
//! whose CUDA encoder agrees with this one; its CPU encoder stores something else.
//!
//! # Order of sums
//!
//! Both lengths and the transform add neighbours first, then neighbouring pairs, and so on: the order in which
//! a warp that holds four consecutive values a lane adds them. Other backends can so store the same bytes.

use half::f16;

use super::F16_MAX;

/// Values that share a rotation and a norm.
pub const GROUP: usize = 128;
/// Values in one block of the layout.
pub const BLOCK: usize = 32;
/// Bytes of one block.
pub const BLOCK_BYTES: usize = 14;
/// Bytes of one group.
pub const GROUP_BYTES: usize = GROUP / BLOCK * BLOCK_BYTES;

/// What the indices stand for, in units of the norm, ascending.
///
/// Close to the Lloyd-Max set for a coordinate of a random unit vector of 128; kept for compatibility.
pub const CENTROIDS: [f32; 8] =
    [-0.190_685, -0.117_832, -0.065_717, -0.021_460, 0.021_460, 0.065_717, 0.117_832, 0.190_685];

/// Borders between the centroids' cells; a value on a border belongs to the upper cell.
pub const THRESHOLDS: [f32; 7] = [-0.154_259, -0.091_775, -0.043_589, 0.0, 0.043_589, 0.091_775, 0.154_259];

/// Signs before the transform: bit `j` of word `k` is set if element `32 * k + j` changes sign.
pub const SIGNS1: [u32; 4] = [0xE46A_0359, 0x42F8_5949, 0xA4C6_3BBB, 0x49F2_50A9];
/// Signs after the transform, as [`SIGNS1`].
pub const SIGNS2: [u32; 4] = [0x16AC_EE90, 0x3F62_8FDC, 0xB7A5_357A, 0xBEA5_6562];

/// `1 / sqrt(128)`, which makes the transform orthogonal.
pub const SCALE: f32 = 0.088_388_35;

/// A group no longer than this is stored as zeros.
pub const TINY: f32 = 1e-10;

/// Multiplies every group of [`GROUP`] values by `R`.
///
/// # Panics
///
/// If the length is not a multiple of [`GROUP`].
#[inline]
pub fn rotate(x: &mut [f32]) {
    for group in groups(x) {
        transform(group, &BEFORE1, &AFTER2);
    }
}

/// Multiplies every group of [`GROUP`] values by the inverse of `R`, which is its transpose.
///
/// # Panics
///
/// If the length is not a multiple of [`GROUP`].
#[inline]
pub fn unrotate(x: &mut [f32]) {
    for group in groups(x) {
        transform(group, &BEFORE2, &AFTER1);
    }
}

const BEFORE1: [f32; GROUP] = diagonal(SIGNS1, 1.0);
const BEFORE2: [f32; GROUP] = diagonal(SIGNS2, 1.0);
const AFTER1: [f32; GROUP] = diagonal(SIGNS1, SCALE);
const AFTER2: [f32; GROUP] = diagonal(SIGNS2, SCALE);

const fn diagonal(signs: [u32; 4], scale: f32) -> [f32; GROUP] {
    let mut diagonal = [scale; GROUP];
    let mut i = 0;
    while i < GROUP {
        if signs[i / 32] >> (i % 32) & 1 == 1 {
            diagonal[i] = -scale;
        }
        i += 1;
    }
    diagonal
}

fn groups(x: &mut [f32]) -> &mut [[f32; GROUP]] {
    let (groups, rest) = x.as_chunks_mut();
    assert!(rest.is_empty(), "{} values past the last group of {GROUP}", rest.len());
    groups
}

/// `diag(after) H diag(before)`, with the scale of `H` inside `after`.
#[inline]
fn transform(x: &mut [f32; GROUP], before: &[f32; GROUP], after: &[f32; GROUP]) {
    for (v, sign) in x.iter_mut().zip(before) {
        *v *= sign;
    }
    // Strides 1 and 2 together, inside four neighbours: the compiler shuffles them in registers.
    for quad in x.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *quad;
        let (ab, a_b, cd, c_d) = (a + b, a - b, c + d, c - d);
        *quad = [ab + cd, a_b + c_d, ab - cd, a_b - c_d];
    }
    butterflies::<4>(x);
    butterflies::<8>(x);
    butterflies::<16>(x);
    butterflies::<32>(x);
    butterflies::<64>(x);
    for (v, sign) in x.iter_mut().zip(after) {
        *v *= sign;
    }
}

#[inline]
fn butterflies<const STRIDE: usize>(x: &mut [f32; GROUP]) {
    for pair in x.chunks_exact_mut(2 * STRIDE) {
        let (low, high) = pair.split_at_mut(STRIDE);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

fn length(x: &[f32; GROUP]) -> f32 {
    let mut sums = x.map(|v| v * v);
    let mut half = GROUP / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] = sums[2 * i] + sums[2 * i + 1];
        }
        half /= 2;
    }
    sums[0].sqrt()
}

/// Stores one group of finite values. Values and the norm saturate at the largest f16.
pub(super) fn encode_group(x: &[f32; GROUP], out: &mut [u8; GROUP_BYTES]) {
    // Unclamped, squares of values near the end of f32 would overflow.
    let mut unit = x.map(|v| v.clamp(-F16_MAX, F16_MAX));
    let long = length(&unit);
    if long > TINY {
        for v in &mut unit {
            *v /= long;
        }
    } else {
        unit = [0.0; GROUP];
    }
    transform(&mut unit, &BEFORE1, &AFTER2);

    let index = unit.map(|v| THRESHOLDS.iter().map(|t| u8::from(v >= *t)).sum::<u8>());
    let norm = long / length(&index.map(|i| CENTROIDS[usize::from(i)]));
    let norm = f16::from_f32(norm.min(F16_MAX)).to_le_bytes();

    let blocks = out.as_chunks_mut::<BLOCK_BYTES>().0;
    for (block, index) in blocks.iter_mut().zip(index.as_chunks::<BLOCK>().0) {
        block[..2].copy_from_slice(&norm);
        for (byte, i) in block[2..10].iter_mut().zip(index.as_chunks::<4>().0) {
            *byte = (0..4).fold(0, |byte, j| byte | (i[j] & 3) << (2 * j));
        }
        for (byte, i) in block[10..].iter_mut().zip(index.as_chunks::<8>().0) {
            *byte = (0..8).fold(0, |byte, j| byte | (i[j] >> 2) << j);
        }
    }
}

/// Two neighbouring centroids by their four low bits and, above those, their two high bits.
///
/// Half the look-ups of a table of centroids, and still only 512 bytes.
const PAIRS: [[f32; 2]; 64] = {
    let mut pairs = [[0.0; 2]; 64];
    let mut i = 0;
    while i < 64 {
        let (low, high) = (i % 16, i / 16);
        pairs[i] = [CENTROIDS[low % 4 + high % 2 * 4], CENTROIDS[low / 4 + high / 2 * 4]];
        i += 1;
    }
    pairs
};

/// Reads one group into the rotated domain.
#[inline]
pub(super) fn decode_group(bytes: &[u8; GROUP_BYTES], out: &mut [f32; GROUP]) {
    let norm = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    let blocks = bytes.as_chunks::<BLOCK_BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        let [_, _, low @ .., h0, h1, h2, h3] = *block;
        let low = u64::from_le_bytes(low);
        let high = u32::from_le_bytes([h0, h1, h2, h3]);
        for (j, pair) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let key = (low >> (4 * j) & 15) | u64::from(high >> (2 * j) & 3) << 4;
            #[expect(clippy::cast_possible_truncation, reason = "six bits")]
            let centroids = PAIRS[key as usize];
            *pair = centroids.map(|c| c * norm);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
