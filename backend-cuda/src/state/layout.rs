//! Pages of the device and pages of files.
//!
//! Both are `[kv_heads, PAGE]` heads and of the same length; on the device the blocks of a head of a page are taken
//! apart, so that kernels copy 16 bytes at once and find the scales of neighbouring tokens side by side:
//!
//! | type | codes, `[PAGE, head_dim]` | scales, `[head_dim / 32, PAGE]` |
//! |---|---|---|
//! | `f32`, `f16` | the values | |
//! | `q8_0`, `q4_0` | 32 or 16 bytes a block, as in a file | one a block |
//! | `tq3_0` | three words a block of 32 values: bit `e` of word `b` is bit `b` of the index of value `e` | one a block; kernels read every fourth |
//!
//! `kernels/common/pages.cuh` says the same.

use gemma4_core::cache::PAGE;
use gemma4_core::kv_type::{KvType, tq3};
use gemma4_core::program::StateSpec;

/// Values that share a scale.
const BLOCK: usize = 32;
/// Bytes of a scale.
const SCALE: usize = 2;

/// A page of a file as the device has it. Both are as long.
pub(super) fn to_device(spec: &StateSpec, file: &[u8], device: &mut [u8]) {
    let head = PAGE * spec.row_bytes();
    let Some(blocks) = Blocks::of(spec) else { return device.copy_from_slice(file) };
    for (file, device) in file.chunks_exact(head).zip(device.chunks_exact_mut(head)) {
        let (codes, scales) = device.split_at_mut(blocks.codes() * blocks.count * PAGE);
        blocks.each(|block, code, scale| {
            let from = &file[block * blocks.bytes..][..blocks.bytes];
            scales[scale..scale + SCALE].copy_from_slice(&from[..SCALE]);
            let to = &mut codes[code..code + blocks.codes()];
            if blocks.planes {
                to.copy_from_slice(&planes(&from[SCALE..]))
            } else {
                to.copy_from_slice(&from[SCALE..])
            }
        });
    }
}

/// The reverse of [`to_device`].
pub(super) fn to_file(spec: &StateSpec, device: &[u8], file: &mut [u8]) {
    let head = PAGE * spec.row_bytes();
    let Some(blocks) = Blocks::of(spec) else { return file.copy_from_slice(device) };
    for (device, file) in device.chunks_exact(head).zip(file.chunks_exact_mut(head)) {
        let (codes, scales) = device.split_at(blocks.codes() * blocks.count * PAGE);
        blocks.each(|block, code, scale| {
            let to = &mut file[block * blocks.bytes..][..blocks.bytes];
            to[..SCALE].copy_from_slice(&scales[scale..scale + SCALE]);
            let from = &codes[code..code + blocks.codes()];
            if blocks.planes {
                to[SCALE..].copy_from_slice(&pairs(from))
            } else {
                to[SCALE..].copy_from_slice(from)
            }
        });
    }
}

/// How the heads of a type are cut into blocks.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    /// Bytes of a block, its scale among them.
    bytes: usize,
    /// Blocks of a head.
    count: usize,
    /// Whether indices become planes of bits.
    planes: bool,
}

impl Blocks {
    /// None if heads are stored as they are.
    fn of(spec: &StateSpec) -> Option<Self> {
        let (bytes, planes) = match spec.kv_type {
            KvType::F32 | KvType::F16 => return None,
            KvType::Q8_0 | KvType::Q4_0 => (spec.kv_type.block_bytes(), false),
            KvType::TQ3_0 => (tq3::BLOCK_BYTES, true),
        };
        Some(Self { bytes, count: spec.head_dim / BLOCK, planes })
    }

    /// Bytes of the codes of a block.
    fn codes(self) -> usize {
        self.bytes - SCALE
    }

    /// Calls `copy` with the number of every block of a head of a page, as files count them, and where its codes and its
    /// scale are on the device.
    fn each(self, mut copy: impl FnMut(usize, usize, usize)) {
        for block in 0..PAGE * self.count {
            let (token, of_head) = (block / self.count, block % self.count);
            copy(block, block * self.codes(), (of_head * PAGE + token) * SCALE);
        }
    }
}

/// The planes of the bits of 32 indices, from their low bits and their high bits as files have them.
fn planes(codes: &[u8]) -> [u8; 12] {
    let (low, high) = codes.split_at(8);
    let mut planes = [[0u8; 4]; 3];
    for e in 0..BLOCK {
        let index = low[e / 4] >> (2 * (e % 4)) & 3 | (high[e / 8] >> (e % 8) & 1) << 2;
        for (b, plane) in planes.iter_mut().enumerate() {
            plane[e / 8] |= (index >> b & 1) << (e % 8);
        }
    }
    let mut all = [0; 12];
    all.copy_from_slice(planes.as_flattened());
    all
}

/// The reverse of [`planes`].
fn pairs(planes: &[u8]) -> [u8; 12] {
    let mut codes = [0u8; 12];
    for e in 0..BLOCK {
        let bit = |b: usize| planes[4 * b + e / 8] >> (e % 8) & 1;
        codes[e / 4] |= (bit(0) | bit(1) << 1) << (2 * (e % 4));
        codes[8 + e / 8] |= bit(2) << (e % 8);
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma4_core::model::config::Span;

    fn spec(kv_type: KvType, kv_heads: usize, head_dim: usize) -> StateSpec {
        StateSpec { name: "pool".to_owned(), span: Span::Local, kv_type, kv_heads, head_dim, pages: 1 }
    }

    /// Bytes without a pattern.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn any_page_comes_back_as_it_was() {
        for kv_type in KvType::ALL {
            for (kv_heads, head_dim) in [(1, 128), (2, 256), (3, 512)] {
                let spec = spec(kv_type, kv_heads, head_dim);
                let file = noise(spec.page_bytes());
                let (mut device, mut back) = (vec![0; file.len()], vec![0; file.len()]);
                to_device(&spec, &file, &mut device);
                to_file(&spec, &device, &mut back);
                assert!(file == back, "{kv_type}, {kv_heads} heads of {head_dim}");
                assert_eq!(file == device, Blocks::of(&spec).is_none(), "{kv_type}");
            }
        }
    }

    /// Reads single values where `kernels/common/kv_any.cuh` does.
    #[test]
    fn kernels_find_what_the_types_say() {
        let (kv_heads, head_dim) = (2, 256);
        for kv_type in [KvType::Q8_0, KvType::Q4_0, KvType::TQ3_0] {
            let spec = spec(kv_type, kv_heads, head_dim);
            let values: Vec<f32> =
                noise(kv_heads * PAGE * head_dim).iter().map(|&v| f32::from(v) / 16.0 - 7.0).collect();
            let mut file = vec![0; spec.page_bytes()];
            kv_type.encode(&values, &mut file).expect("finite values");
            let mut want = vec![0.0; values.len()];
            kv_type.decode(&file, &mut want);
            let mut device = vec![0; file.len()];
            to_device(&spec, &file, &mut device);
            let code_bytes = spec.row_bytes() - head_dim / BLOCK * SCALE;
            for (at, want) in want.iter().enumerate().step_by(7) {
                let (head, token, d) = (at / head_dim / PAGE, at / head_dim % PAGE, at % head_dim);
                let head = &device[head * PAGE * spec.row_bytes()..][..PAGE * spec.row_bytes()];
                let row = &head[token * code_bytes..][..code_bytes];
                let (block, e) = (d / BLOCK, d % BLOCK);
                let scale = |block: usize| {
                    let at = PAGE * code_bytes + (block * PAGE + token) * SCALE;
                    half::f16::from_le_bytes([head[at], head[at + 1]]).to_f32()
                };
                let got = match kv_type {
                    KvType::Q8_0 => f32::from(row[d].cast_signed()) * scale(block),
                    KvType::Q4_0 => {
                        let code = row[block * 16 + e % 16] >> (e / 16 * 4) & 15;
                        f32::from(code.cast_signed() - 8) * scale(block)
                    }
                    _ => {
                        let bit = |b: usize| usize::from(row[block * 12 + 4 * b + e / 8] >> (e % 8) & 1) << b;
                        tq3::CENTROIDS[bit(0) | bit(1) | bit(2)] * scale(block / 4 * 4)
                    }
                };
                assert_eq!(got.to_bits(), want.to_bits(), "{kv_type}, value {at}");
            }
        }
    }
}
