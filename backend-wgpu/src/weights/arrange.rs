//! The order of codes within a block on the device.
//!
//! A chunk is 32 columns, in eight quads of four. A code of quad `i` is at position `i ^ (chunk % 8)` of its chunk, so
//! that eight neighbouring lanes that read the activations for position `p` of eight neighbouring chunks read eight
//! different quads, in different banks. Positions are packed as lanes take them apart, number `k` of a quad in byte `k`:
//!
//! | field | words | position `p` |
//! |---|---|---|
//! | nibbles | 4 | nibbles: bit `8 k + 4 (p / 4)` of word `p % 4` |
//! | pairs of bits | 2 | bit `8 k + 2 (p % 4)` of word `p / 4` |
//! | single bits | 1 | bit `8 k + p` |
//! | bytes | 8 | word `p` |
//!
//! Scales of `Q4_K` and `Q5_K` are in an order of their own, too: [`scales`]. Where 16 columns have a scale, the two of
//! chunks 4 to 7 are exchanged as their quads are.

use gemma4_core::tensor::DType;

/// Eight quads of codes, a code a byte.
type Quads = [u32; 8];

/// Words of a range of bytes.
fn word(bytes: &[u8], i: usize) -> u32 {
    bytes[4 * i..].first_chunk().map_or(0, |&bytes| u32::from_le_bytes(bytes))
}

fn put(bytes: &mut [u8], words: impl IntoIterator<Item = u32>) {
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}

fn swap(quads: Quads, chunk: usize) -> Quads {
    std::array::from_fn(|p| quads[p ^ (chunk % 8)])
}

fn nibbles(q: &Quads) -> [u32; 4] {
    std::array::from_fn(|i| q[i] & 0x0f0f_0f0f | (q[4 + i] & 0x0f0f_0f0f) << 4)
}

fn pairs(q: &Quads) -> [u32; 2] {
    std::array::from_fn(|i| (0..4).fold(0, |word, j| word | (q[4 * i + j] & 0x0303_0303) << (2 * j)))
}

fn singles(q: &Quads) -> u32 {
    (0..8).fold(0, |word, i| word | (q[i] & 0x0101_0101) << i)
}

/// The codes of 16 bytes: low nibbles, then high ones.
fn codes(bytes: &[u8]) -> Quads {
    std::array::from_fn(|i| word(bytes, i % 4) >> (4 * (i / 4)) & 0x0f0f_0f0f)
}

/// Single bits in the order of columns.
fn bits(bits: u32) -> Quads {
    std::array::from_fn(|i| (bits >> (4 * i) & 15).wrapping_mul(0x0020_4081) & 0x0101_0101)
}

/// Exchanges neighbouring bytes in the bits of `mask`, which is the same for both.
fn exchange(word: u32, mask: u32) -> u32 {
    word & !mask | (word & mask) >> 8 & mask & 0x00ff_00ff | (word & mask) << 8 & mask & 0xff00_ff00
}

/// Puts the codes of block `index` of a row in the order of the device.
///
/// - `block`: as in the file; `body`: its body, already copied, in part or whole.
pub(super) fn body(dtype: DType, index: usize, block: &[u8], body: &mut [u8]) {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {}
        DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::IQ4_NL | DType::MXFP4 => {
            put(body, nibbles(&swap(codes(&block[block.len() - 16..]), index)));
        }
        DType::Q8_0 => put(body, swap(std::array::from_fn(|i| word(&block[2..], i)), index)),
        DType::Q2_K => {
            for scales in body[8..16].as_chunks_mut::<2>().0 {
                scales.swap(0, 1);
            }
            each_group(|g| put(&mut body[16 + 8 * g..][..8], pairs(&swap(two_bits(&block[16..], g), g))));
        }
        DType::Q3_K => each_group(|g| {
            let high = std::array::from_fn(|i| word(block, i) >> g);
            put(&mut body[4 * g..][..4], [singles(&swap(high, g))]);
            put(&mut body[32 + 8 * g..][..8], pairs(&swap(two_bits(&block[32..], g), g)));
        }),
        DType::Q4_K => {
            put(&mut body[4..16], scales(&block[4..16]));
            each_group(|g| {
                put(&mut body[16 + 16 * g..][..16], nibbles(&swap(four_bits(&block[16..], g), g)));
            });
        }
        DType::Q5_K => {
            put(&mut body[4..16], scales(&block[4..16]));
            each_group(|g| {
                let high = std::array::from_fn(|i| word(&block[16..], i) >> g);
                put(&mut body[16 + 4 * g..][..4], [singles(&swap(high, g))]);
                put(&mut body[48 + 16 * g..][..16], nibbles(&swap(four_bits(&block[48..], g), g)));
            });
        }
        DType::Q6_K => {
            each_group(|g| {
                let low =
                    std::array::from_fn(|i| word(block, 16 * (g / 4) + 8 * (g % 2) + i) >> (4 * (g / 2 % 2)));
                put(&mut body[16 * g..][..16], nibbles(&swap(low, g)));
                put(&mut body[128 + 8 * g..][..8], pairs(&swap(two_bits(&block[128..], g), g)));
            });
            for scales in body[200..208].as_chunks_mut::<2>().0 {
                scales.swap(0, 1);
            }
        }
        DType::IQ4_XS => each_group(|g| {
            put(&mut body[16 * g..][..16], nibbles(&swap(codes(&block[8 + 16 * g..][..16]), g)));
        }),
    }
}

/// Puts a tail in the order of the device. `number` counts the tails of the type.
pub(super) fn tail(dtype: DType, number: usize, index: usize, tail: &mut [u8]) {
    match (dtype, number) {
        (DType::Q5_0, 0) => {
            let high = word(tail, 0);
            put(tail, [singles(&swap(bits(high), index))]);
        }
        (DType::Q5_1, 0) => {
            let high = word(tail, 1);
            put(&mut tail[4..], [singles(&swap(bits(high), index))]);
        }
        (DType::Q3_K, _) => {
            // Scales 8 to 16 are the high nibbles of eight bytes, and the upper halves of the four behind them.
            let words: [u32; 3] = std::array::from_fn(|i| exchange(word(tail, i), 0xf0f0_f0f0));
            put(tail, words);
        }
        _ => {}
    }
}

fn each_group(action: impl FnMut(usize)) {
    (0..8).for_each(action);
}

/// The scales and mins of eight groups, from the twelve bytes of a file's block.
///
/// A scale is in the lower half of a word and its min at the same bits of the upper half, so that lanes take both at once:
/// those of groups 0 to 5 in bits 0 to 5 and 6 to 11 of three words, those of groups 6 and 7 in what is left of them.
fn scales(bytes: &[u8]) -> [u32; 3] {
    let byte = |i: usize| u32::from(bytes[i]);
    let pair = |g: usize| {
        if g < 4 {
            return byte(g) & 63 | (byte(g + 4) & 63) << 16;
        }
        let (scale, min) = (byte(g + 4) & 15 | byte(g - 4) >> 6 << 4, byte(g + 4) >> 4 | byte(g) >> 6 << 4);
        scale | min << 16
    };
    let two = |i: usize| pair(2 * i) | pair(2 * i + 1) << 6;
    let (lower, upper) = (|g: usize| pair(g) & 0x000f_000f, |g: usize| pair(g) >> 4 & 0x0003_0003);
    [two(0) | lower(6) << 12, two(1) | upper(6) << 12 | upper(7) << 14, two(2) | lower(7) << 12]
}

/// Group `g` of 64 values for each 32 bytes: low nibbles, then high ones.
fn four_bits(bytes: &[u8], g: usize) -> Quads {
    std::array::from_fn(|i| word(bytes, 8 * (g / 2) + i) >> (4 * (g % 2)))
}

/// Group `g` of 128 values for each 32 bytes: bits 0 and 1, then bits 2 and 3, ...
fn two_bits(bytes: &[u8], g: usize) -> Quads {
    std::array::from_fn(|i| word(bytes, 8 * (g / 4) + i) >> (2 * (g % 4)))
}
