//! Codes and factors put where the lanes of a product find them.
//!
//! A product takes 16 columns. Lane `(g, t)` holds four registers of two halves: registers 0 and 2 are row `g`, 1 and 3
//! row `g + 8`; 0 and 1 are columns `4 t` and `4 t + 1`, 2 and 3 columns `4 t + 2` and `4 t + 3`. A register's second
//! half is sixteen bits above its first, so that one mask takes both codes out of a word. In words of narrow codes row
//! `g + 8` lies just above row `g`: the mask leaves it multiplied by `2^bits`, which the kernel makes good with the scale.

use gemma4_core::quant;
use gemma4_core::tensor::DType;

use super::blocks::Block;
use super::layout::{BLOCK, CHUNK, Layout, PLANES, Scales, TILE};

/// Products in a chunk.
const PRODUCTS: usize = CHUNK / 16;

/// Packs one tile of a block type.
pub(super) fn codes(layout: &Layout, rows: &[Option<&[u8]>; TILE], out: [&mut [u8]; PLANES]) {
    let [codes, extra, scales, deltas] = out;
    let (bits, extra_bits) = (layout.form.bits, layout.form.extra);
    let dtype = layout.dtype;
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
                let words = &mut codes[(at * 32 + lane) * bits * 4..][..bits * 4];
                let extras = &mut extra[(at * 32 + lane) * extra_bits * 4..][..extra_bits * 4];
                lane_words(&blocks, chunk, lane, (bits, words), (extra_bits, extras));
            }
        }
        factors(layout.form.scales, &blocks, first, chunks, scales, deltas);
    }
}

/// The words of one lane for one chunk of a block.
fn lane_words(
    blocks: &[Block; TILE],
    chunk: usize,
    lane: usize,
    (bits, words): (usize, &mut [u8]),
    (extra_bits, extras): (usize, &mut [u8]),
) {
    let (g, t) = (lane / 4, lane % 4);
    let four = |row: usize, product: usize| {
        let at = CHUNK * chunk + 16 * product + 4 * t;
        let &[a, b, c, d] = &blocks[row].codes[at..at + 4] else { unreachable!("four codes of a block") };
        [a, b, c, d].map(u32::from)
    };
    let mut extra = [0u32; 2];
    for product in 0..PRODUCTS {
        let (low, high) = (four(g, product), four(g + 8, product));
        // Registers in order, each with its first and its second value.
        let registers = [[low[0], low[1]], [high[0], high[1]], [low[2], low[3]], [high[2], high[3]]];
        match bits {
            2 => {
                let word = registers.iter().enumerate().fold(0, |word, (r, [a, b])| {
                    let at = 8 * (product % 2) + 2 * r;
                    word | (a & 3) << at | (b & 3) << (16 + at)
                });
                or_word(words, product / 2, word);
            }
            4 => {
                let word = registers
                    .iter()
                    .enumerate()
                    .fold(0, |word, (r, [a, b])| word | (a & 15) << (4 * r) | (b & 15) << (16 + 4 * r));
                or_word(words, product, word);
            }
            _ => {
                for (pair, registers) in registers.chunks_exact(2).enumerate() {
                    let [[a, b], [c, d]] = registers else { unreachable!("two registers") };
                    or_word(words, 2 * product + pair, a | c << 8 | b << 16 | d << 24);
                }
            }
        }
        for (r, [a, b]) in registers.iter().enumerate() {
            if extra_bits == 0 {
                continue;
            }
            let (word, at) = extra_place(bits, extra_bits, product, r);
            let mask = (1 << extra_bits) - 1;
            extra[word] |= (a >> bits & mask) << at | (b >> bits & mask) << (16 + at);
        }
    }
    for (i, word) in extra[..extra_bits].iter().enumerate() {
        or_word(extras, i, *word);
    }
}

/// Word and first bit of the upper bits of register `r` of a product. Registers 0 and 1, and 2 and 3, are as far apart
/// as their places in the code, so that one shift brings both there.
pub(super) fn extra_place(bits: usize, extra_bits: usize, product: usize, r: usize) -> (usize, usize) {
    let above = if r % 2 == 1 { bits } else { 0 };
    match (bits, extra_bits) {
        (4, 2) => {
            let k = 2 * (product % 2) + r / 2;
            (product / 2, if k < 2 { 2 * k } else { 2 * k + 4 } + above)
        }
        (2, _) => {
            let k = 2 * product + r / 2;
            (0, k / 2 * 4 + k % 2 + above)
        }
        _ => {
            let k = 2 * product + r / 2;
            (0, if k < 4 { k } else { k + 4 } + above)
        }
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
/// Word 0: both halves. Words 1 and 2: mins `2 t` in the low half and `2 t + 1` in the high half, at bits 0 and 6 for
/// `t` = 0, 1 (word 1) and 2, 3 (word 2). Word 3: factors 0 to 4, six bits each. Bits 12 to 15 and 28, 29 of words 1 and
/// 2: the lower four and the upper two bits of factors 5 and 6. Bits 30, 31 of words 1, 2 and 3: factor 7.
fn six_bit(block: &Block) -> [u32; 4] {
    let factor = |i: usize| u32::from(block.factors[i]);
    let min = |i: usize| u32::from(block.mins[i]);
    let mut words = [u32::from(block.d) | u32::from(block.dmin) << 16, 0, 0, 0];
    for t in 0..4 {
        words[1 + t / 2] |= (min(2 * t) | min(2 * t + 1) << 16) << (6 * (t % 2));
    }
    for i in 0..5 {
        words[3] |= factor(i) << (6 * i);
    }
    for i in 0..2 {
        words[1 + i] |= (factor(5 + i) & 15) << 12 | (factor(5 + i) >> 4) << 28;
    }
    for i in 0..3 {
        words[1 + i] |= (factor(7) >> (2 * i) & 3) << 30;
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
