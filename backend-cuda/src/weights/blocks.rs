//! Blocks of files taken apart: codes as bytes, and the numbers that make values of them.
//!
//! The layouts are those of `gemma4_core::quant`; a test holds the two against each other.

use gemma4_core::tensor::DType;

use super::layout::BLOCK;

/// Up to 256 consecutive values of a row.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Unsigned codes; `IQ4` and `MXFP4` types hold numbers of their codebook.
    pub(super) codes: [u8; BLOCK],
    /// Factors of groups: bits of a half (of a bfloat16 in `MXFP4`), or small integers.
    pub(super) factors: [u16; 16],
    /// What groups are moved by: bits of a half, or small integers.
    pub(super) mins: [u16; 16],
    /// Bits of the half that multiplies `factors`.
    pub(super) d: u16,
    /// Bits of the half that multiplies `mins`.
    pub(super) dmin: u16,
}

impl Block {
    /// All zeros.
    pub(super) const fn zero() -> Self {
        Self { codes: [0; BLOCK], factors: [0; 16], mins: [0; 16], d: 0, dmin: 0 }
    }

    /// Takes the blocks `bytes` of a row apart: one of 256 values, or up to eight of 32.
    pub(super) fn read(&mut self, dtype: DType, bytes: &[u8]) {
        *self = Self::zero();
        if dtype.block_len() == BLOCK {
            match dtype {
                DType::Q2_K => self.q2_k(bytes),
                DType::Q3_K => self.q3_k(bytes),
                DType::Q4_K => self.q4_k(bytes, 16),
                DType::Q5_K => self.q5_k(bytes),
                DType::Q6_K => self.q6_k(bytes),
                _ => self.iq4_xs(bytes),
            }
            return;
        }
        for (group, bytes) in bytes.chunks_exact(dtype.block_bytes()).enumerate() {
            let to = &mut self.codes[32 * group..32 * group + 32];
            let nibble_bytes = match dtype {
                DType::Q8_0 => {
                    to.iter_mut().zip(&bytes[2..]).for_each(|(to, &q)| *to = q ^ 0x80);
                    &[][..]
                }
                DType::Q4_1 => &bytes[4..],
                DType::Q5_0 => &bytes[6..],
                DType::Q5_1 => &bytes[8..],
                DType::MXFP4 => &bytes[1..],
                _ => &bytes[2..],
            };
            nibbles(nibble_bytes, to);
            let fifth = match dtype {
                DType::Q5_0 => u32_at(bytes, 2),
                DType::Q5_1 => u32_at(bytes, 4),
                _ => 0,
            };
            to.iter_mut().enumerate().for_each(|(i, to)| *to |= u8::from(fifth >> i & 1 != 0) << 4);
            self.factors[group] = match dtype {
                // 2^(e - 128): below 2^-126 a single bit of the fraction.
                DType::MXFP4 => match bytes[0] {
                    e @ 0..2 => 1 << (5 + e),
                    e => u16::from(e - 1) << 7,
                },
                _ => u16_at(bytes, 0),
            };
            if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
                self.mins[group] = u16_at(bytes, 2);
            }
        }
    }

    fn q2_k(&mut self, bytes: &[u8]) {
        two_bits(&bytes[16..80], &mut self.codes);
        for (i, &s) in bytes[..16].iter().enumerate() {
            self.factors[i] = u16::from(s & 15);
            self.mins[i] = u16::from(s >> 4);
        }
        (self.d, self.dmin) = (u16_at(bytes, 80), u16_at(bytes, 82));
    }

    fn q3_k(&mut self, bytes: &[u8]) {
        two_bits(&bytes[32..96], &mut self.codes);
        upper_bits::<1, 2>(&bytes[..32], &mut self.codes);
        let scales = &bytes[96..108];
        for (i, factor) in self.factors.iter_mut().enumerate() {
            let low = if i < 8 { scales[i] & 15 } else { scales[i - 8] >> 4 };
            let high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
            *factor = signed(low | high << 4, 32);
        }
        self.d = u16_at(bytes, 108);
    }

    /// What `Q4_K` and `Q5_K` have in common; nibbles start at byte `nibbles_at`.
    fn q4_k(&mut self, bytes: &[u8], nibbles_at: usize) {
        for (q, to) in bytes[nibbles_at..].chunks_exact(32).zip(self.codes.chunks_exact_mut(64)) {
            nibbles(q, to);
        }
        let s = &bytes[4..16];
        for g in 0..4 {
            self.factors[g] = u16::from(s[g] & 63);
            self.mins[g] = u16::from(s[4 + g] & 63);
            self.factors[4 + g] = u16::from(s[8 + g] & 15 | s[g] >> 6 << 4);
            self.mins[4 + g] = u16::from(s[8 + g] >> 4 | s[4 + g] >> 6 << 4);
        }
        (self.d, self.dmin) = (u16_at(bytes, 0), u16_at(bytes, 2));
    }

    fn q5_k(&mut self, bytes: &[u8]) {
        self.q4_k(bytes, 48);
        upper_bits::<1, 4>(&bytes[16..48], &mut self.codes);
    }

    fn q6_k(&mut self, bytes: &[u8]) {
        for (half, codes) in self.codes.chunks_exact_mut(128).enumerate() {
            nibbles(&bytes[64 * half..64 * half + 64], codes);
            upper_bits::<2, 4>(&bytes[128 + 32 * half..160 + 32 * half], codes);
        }
        for (factor, &s) in self.factors.iter_mut().zip(&bytes[192..208]) {
            *factor = signed(s, 0);
        }
        self.d = u16_at(bytes, 208);
    }

    fn iq4_xs(&mut self, bytes: &[u8]) {
        for (q, to) in bytes[8..].chunks_exact(16).zip(self.codes.chunks_exact_mut(32)) {
            nibbles(q, to);
        }
        let high = u16_at(bytes, 2);
        for (g, factor) in self.factors[..8].iter_mut().enumerate() {
            let low = bytes[4 + g / 2] >> (4 * (g % 2)) & 15;
            let high = u8::try_from(high >> (2 * g) & 3).expect("two bits");
            *factor = signed(low | high << 4, 32);
        }
        self.d = u16_at(bytes, 0);
    }
}

/// `byte - offset`, or the byte as an `i8`, as sixteen bits that [`super::pack`] cuts to eight.
fn signed(byte: u8, offset: i16) -> u16 {
    let value = if offset == 0 { i16::from(byte.cast_signed()) } else { i16::from(byte) - offset };
    value.cast_unsigned()
}

/// Low nibbles, then high ones.
fn nibbles(bytes: &[u8], to: &mut [u8]) {
    let (low, high) = to.split_at_mut(bytes.len().min(to.len() / 2));
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// 32 bytes: bits `BITS s` and on of byte `l` are those of code `32 s + l` from bit `AT` on.
fn upper_bits<const BITS: usize, const AT: usize>(bytes: &[u8], codes: &mut [u8]) {
    for (s, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (code, &byte) in codes.iter_mut().zip(bytes) {
            *code |= (byte >> (BITS * s) & ((1 << BITS) - 1)) << AT;
        }
    }
}

/// 64 bytes: of each 128 values, value `32 s + l` is bits `2 s` and `2 s + 1` of byte `l`.
fn two_bits(bytes: &[u8], to: &mut [u8; BLOCK]) {
    for (bytes, to) in bytes.chunks_exact(32).zip(to.chunks_exact_mut(128)) {
        for (s, to) in to.chunks_exact_mut(32).enumerate() {
            to.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = byte >> (2 * s) & 3);
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}
