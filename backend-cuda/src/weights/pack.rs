//! Codes and factors put where the lanes of a product find them.
//!
//! Codes are bytes in products of integers. A group is 32 columns; of it lane `(g, t)` has four registers of four bytes:
//! 0 and 1 are rows `g` and `g + 8` of the first 16 columns, 2 and 3 of the others. The bytes of a register are columns
//! `4 t`, `4 t + 2`, `4 t + 1` and `4 t + 3`, so that every other byte makes a register of a product of halves.
//!
//! Of narrow codes several registers share a word: a mask, and for some a shift, takes one out of it. Codes with extra bits
//! have their lowest there, and the others in the plane of codes. Codes that an offset moves have their highest bit turned,
//! which makes them signed numbers once they end at the top of a byte.
//!
//! A product of halves takes 16 columns of types that are no codes. Its registers have two halves: 0 and 2 are row `g`, 1
//! and 3 row `g + 8`; 0 and 1 are columns `4 t` and `4 t + 1`, 2 and 3 columns `4 t + 2` and `4 t + 3`.

use gemma4_core::quant;
use gemma4_core::tensor::DType;

use super::blocks::Block;
use super::layout::{BLOCK, CHUNK, Layout, PLANES, Scales, TILE};

/// Products of halves in a chunk.
const PRODUCTS: usize = CHUNK / 16;

/// Packs one tile of a block type.
pub(super) fn codes(layout: &Layout, rows: &[Option<&[u8]>; TILE], out: [&mut [u8]; PLANES]) {
    // All places and shifts follow from these numbers: where the compiler knows them, a core packs Q4_K twice
    // as fast, and Q5_K four times.
    let pack = match (layout.form.bits, layout.form.extra) {
        (2, 0) => codes_of::<2, 0>,
        (2, 1) => codes_of::<2, 1>,
        (4, 0) => codes_of::<4, 0>,
        (4, 1) => codes_of::<4, 1>,
        (4, 2) => codes_of::<4, 2>,
        (8, 0) => codes_of::<8, 0>,
        (bits, extra) => unreachable!("no type has {bits} and {extra} bits"),
    };
    pack(layout, rows, out);
}

/// The same for codes of so many bits.
fn codes_of<const BITS: usize, const EXTRA: usize>(
    layout: &Layout,
    rows: &[Option<&[u8]>; TILE],
    out: [&mut [u8]; PLANES],
) {
    let [codes, extra, scales, deltas] = out;
    let dtype = layout.dtype;
    let turned = turned(dtype);
    let block_bytes = BLOCK / dtype.block_len() * dtype.block_bytes();
    let mut blocks: [Block; TILE] = std::array::from_fn(|_| Block::zero());
    for first in 0..layout.blocks() {
        for (block, row) in blocks.iter_mut().zip(rows) {
            let bytes = row
                .map_or(&[][..], |row| &row[first * block_bytes..((first + 1) * block_bytes).min(row.len())]);
            if bytes.is_empty() { *block = Block::zero() } else { block.read(dtype, bytes) }
        }
        let chunks = (layout.chunks() - 4 * first).min(4);
        for chunk in 0..chunks {
            let at = 4 * first + chunk;
            for lane in 0..32 {
                let words = &mut codes[(at * 32 + lane) * BITS * 4..][..BITS * 4];
                let extras = &mut extra[(at * 32 + lane) * EXTRA * 4..][..EXTRA * 4];
                lane_words::<BITS, EXTRA>(&blocks, (chunk, lane, turned), words, extras);
            }
        }
        factors(layout.form.scales, &blocks, first, chunks, scales, deltas);
    }
}

/// Columns of the four bytes of a register, from its first.
const ORDER: [usize; 4] = [0, 2, 1, 3];
/// A byte, four times.
const BYTES: u32 = 0x0101_0101;

/// The words of one lane for one chunk of a block: four codes at a time.
#[inline(always)]
fn lane_words<const BITS: usize, const EXTRA: usize>(
    blocks: &[Block; TILE],
    (chunk, lane, turned): (usize, usize, u8),
    words: &mut [u8],
    extras: &mut [u8],
) {
    let (g, t) = (lane / 4, lane % 4);
    let (upper, lower) = (BYTES * ((1 << BITS) - 1), BYTES * ((1 << EXTRA) - 1));
    let mut to = [0u32; 8];
    let mut to_extra = [0u32; 2];
    for group in 0..CHUNK / 32 {
        for register in 0..4 {
            let codes = &blocks[g + register % 2 * 8].codes;
            let first = CHUNK * chunk + 32 * group + register / 2 * 16 + 4 * t;
            let &[a, b, c, d] = &codes[first..first + 4] else { unreachable!("four codes of a block") };
            let four = u32::from_le_bytes([a, c, b, d]) ^ (BYTES * u32::from(turned));
            let (word, at) = code_place(BITS, group, register);
            to[word] |= (four >> EXTRA & upper) << at;
            if EXTRA > 0 {
                let (word, at) = extra_place(EXTRA, group, register);
                to_extra[word] |= (four & lower) << at;
            }
        }
    }
    put_words(words, &to);
    put_words(extras, &to_extra);
}

/// As many words as there is room for.
fn put_words(to: &mut [u8], words: &[u32]) {
    to.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
}

/// Word, and first bit in each of its bytes, of the codes of a register.
pub(super) fn code_place(bits: usize, group: usize, register: usize) -> (usize, usize) {
    match bits {
        2 => (group, 2 * register),
        4 => (2 * group + register / 2, 4 * (register % 2)),
        _ => (4 * group + register, 0),
    }
}

/// The same of their lowest bits.
pub(super) fn extra_place(extra_bits: usize, group: usize, register: usize) -> (usize, usize) {
    match extra_bits {
        1 => (0, 4 * group + register),
        _ => (group, 2 * register),
    }
}

/// What turns the highest bit of codes that an offset moves.
pub(super) fn turned(dtype: DType) -> u8 {
    match dtype {
        DType::Q3_K => 1 << 2,
        DType::Q4_0 => 1 << 3,
        DType::Q5_0 => 1 << 4,
        DType::Q6_K => 1 << 5,
        DType::Q8_0 => 1 << 7,
        _ => 0,
    }
}

fn or_word(words: &mut [u8], index: usize, word: u32) {
    for (to, byte) in words[4 * index..4 * index + 4].iter_mut().zip(word.to_le_bytes()) {
        *to |= byte;
    }
}

fn put(to: &mut [u8], index: usize, value: u16) {
    to[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes());
}

/// The factors of one block of 256 columns.
fn factors(
    scales: Scales,
    blocks: &[Block; TILE],
    first: usize,
    chunks: usize,
    to: &mut [u8],
    deltas: &mut [u8],
) {
    match scales {
        Scales::Row => {}
        Scales::Half | Scales::HalfMin => {
            let parts = if scales == Scales::Half { 1 } else { 2 };
            for chunk in 0..chunks {
                for (r, block) in blocks.iter().enumerate() {
                    let at = ((4 * first + chunk) * 8 + r % 8) * 4 * parts + r / 8 * 2;
                    for group in 0..2 {
                        put(to, at + group, block.factors[2 * chunk + group]);
                        if parts == 2 {
                            put(to, at + 4 + group, block.mins[2 * chunk + group]);
                        }
                    }
                }
            }
        }
        Scales::SixBit => {
            for (block, to) in blocks.iter().zip(to[first * 256..].chunks_exact_mut(16)) {
                for (i, word) in six_bit(block).into_iter().enumerate() {
                    or_word(to, i, word);
                }
            }
        }
        Scales::Byte16 | Scales::Byte32 => {
            let count = if scales == Scales::Byte16 { 16 } else { 8 };
            for (r, block) in blocks.iter().enumerate() {
                let to = &mut to[(first * TILE + r) * count..][..count];
                // The sign is in the byte.
                to.iter_mut().zip(block.factors).for_each(|(to, factor)| *to = factor.to_le_bytes()[0]);
                put(deltas, first * TILE + r, block.d);
            }
        }
        Scales::Nibble => {
            for (r, block) in blocks.iter().enumerate() {
                let to = &mut to[(first * TILE + r) * 16..][..16];
                for half in 0..2 {
                    let (mut factors, mut mins) = (0, 0);
                    for j in 0..8 {
                        factors |= u32::from(block.factors[8 * half + j]) << (4 * j);
                        mins |= u32::from(block.mins[8 * half + j]) << (4 * (j / 2) + 16 * (j % 2));
                    }
                    or_word(to, half, factors);
                    or_word(to, 2 + half, mins);
                }
                put(deltas, 2 * (first * TILE + r), block.d);
                put(deltas, 2 * (first * TILE + r) + 1, block.dmin);
            }
        }
    }
}

/// The sixteen bytes of a row of a block of `Q4_K` or `Q5_K`.
///
/// Word 0: both halves. The lower six bits of the bytes of words 1 and 2 are mins 0, 2, 1, 3 and 4, 6, 5, 7, so that a
/// mask takes pairs of them out as halves; those of word 3 are factors 0 to 3. The upper two bits of bytes `i` are factor
/// `4 + i`: in word 2 its lowest, in word 1 those above, in word 3 its highest.
fn six_bit(block: &Block) -> [u32; 4] {
    let factor = |i: usize| u32::from(block.factors[i]);
    let mut words = [u32::from(block.d) | u32::from(block.dmin) << 16, 0, 0, 0];
    for (i, column) in ORDER.into_iter().enumerate() {
        let at = 8 * i;
        words[1] |= u32::from(block.mins[column]) << at | (factor(4 + i) >> 2 & 3) << (at + 6);
        words[2] |= u32::from(block.mins[4 + column]) << at | (factor(4 + i) & 3) << (at + 6);
        words[3] |= factor(i) << at | (factor(4 + i) >> 4) << (at + 6);
    }
    words
}

/// Packs one tile of a type without blocks.
///
/// Halves hold `value / scale`, where the scale of a row is the power of two that brings its largest value to
/// [2^14, 2^15). Values of `F16` stay as they are. A bfloat16 has fewer bits than a half, so only values below 2^-29 of
/// the row's largest lose some. An `F32` is two halves, the second 2^11 times what the first left: 22 bits.
pub(super) fn floats(layout: &Layout, rows: &[Option<&[u8]>; TILE], out: [&mut [u8]; PLANES]) {
    let [codes, extra, scales, _] = out;
    let cols = layout.cols;
    let mut values = vec![0.0f32; TILE * layout.chunks() * CHUNK];
    let stride = layout.chunks() * CHUNK;
    for (r, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        let values = &mut values[r * stride..][..cols];
        quant::decode(layout.dtype, row, values);
        if layout.dtype == DType::F32 {
            extra[r * cols * 4..][..cols * 4].copy_from_slice(row);
        }
        let scale = if layout.dtype == DType::F16 { 1.0 } else { scale(values) };
        for value in values.iter_mut() {
            *value /= scale;
        }
        scales[4 * r..4 * r + 4].copy_from_slice(&scale.to_le_bytes());
    }
    let words = layout.form.bits;
    for chunk in 0..layout.chunks() {
        for lane in 0..32 {
            let to = &mut codes[(chunk * 32 + lane) * words * 4..][..words * 4];
            for product in 0..PRODUCTS {
                for register in 0..4 {
                    let row = lane / 4 + register % 2 * 8;
                    let at = CHUNK * chunk + 16 * product + lane % 4 * 4 + register / 2 * 2;
                    for (i, &value) in values[row * stride + at..][..2].iter().enumerate() {
                        let high = half::f16::from_f32(value);
                        put(to, (4 * product + register) * 2 + i, high.to_bits());
                        if words == 32 {
                            let low = half::f16::from_f32((value - high.to_f32()) * 2048.0);
                            put(to, (16 + 4 * product + register) * 2 + i, low.to_bits());
                        }
                    }
                }
            }
        }
    }
}

/// The power of two that divides a row of halves; 1 for rows of zeros and rows that are not finite.
fn scale(values: &[f32]) -> f32 {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return 1.0;
    }
    let exponent = (largest.to_bits() >> 23).clamp(15, 240) - 14;
    f32::from_bits(exponent << 23)
}
