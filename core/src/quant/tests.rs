//! Against gguf-py (`golden/make.py`), against decoders that are wrong on purpose, and against themselves.

use std::array;
use std::hint::black_box;
use std::time::Instant;

use proptest::prelude::*;

use super::{IQ4_VALUES, MXFP4_VALUES, NoEncoder, decode, encode};
use crate::tensor::DType;

/// Blocks and their values by gguf-py.
struct Golden {
    dtype: DType,
    blocks: Vec<u8>,
    values: Vec<f32>,
}

macro_rules! golden {
    ($($dtype:ident),*) => {
        [$((DType::$dtype, include_bytes!(concat!("golden/", stringify!($dtype), ".bin")).as_slice())),*]
    };
}

fn goldens() -> impl Iterator<Item = Golden> {
    let files = golden!(
        F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4
    );
    assert_eq!(files.map(|(dtype, _)| dtype), DType::ALL);
    files.into_iter().map(|(dtype, bytes)| {
        let count = bytes.len() / (dtype.block_bytes() + 4 * dtype.block_len());
        let (blocks, values) = bytes.split_at(count * dtype.block_bytes());
        assert!(count >= 8);
        assert_eq!(values.len(), 4 * count * dtype.block_len());
        Golden { dtype, blocks: blocks.to_vec(), values: floats(values) }
    })
}

fn golden(dtype: DType) -> Golden {
    goldens().find(|golden| golden.dtype == dtype).expect("every type has one")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (bytes, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    bytes.iter().copied().map(f32::from_le_bytes).collect()
}

fn decoded(dtype: DType, blocks: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; blocks.len() / dtype.block_bytes() * dtype.block_len()];
    decode(dtype, blocks, &mut out);
    out
}

fn encoded(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0xa5; dtype.row_bytes(values.len()).unwrap()];
    encode(dtype, values, &mut out).unwrap();
    out
}

/// [`decode`] as it is meant to be called.
fn dispatched(dtype: DType, blocks: &[u8], out: &mut [f32]) {
    struct Decode<'a>(DType, &'a [u8], &'a mut [f32]);

    impl pulp::WithSimd for Decode<'_> {
        type Output = ();

        #[expect(clippy::inline_always, reason = "the instructions are enabled in the caller only")]
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) {
            decode(self.0, self.1, self.2);
        }
    }

    pulp::Arch::new().dispatch(Decode(dtype, blocks, out));
}

/// The same bits, or NaN in both.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

#[test]
fn every_type_decodes_to_the_bits_of_gguf_py() {
    for Golden { dtype, blocks, values } in goldens() {
        let ours = decoded(dtype, &blocks);
        for (i, (ours, theirs)) in ours.iter().zip(&values).enumerate() {
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{dtype} value {i}: {ours} is not {theirs}");
        }
        assert!(same(&ours, &values));
    }
}

#[test]
fn a_dispatched_decode_has_the_same_bits() {
    for Golden { dtype, blocks, values } in goldens() {
        let mut out = vec![f32::NAN; values.len()];
        dispatched(dtype, &blocks, &mut out);
        assert!(same(&out, &values), "{dtype}");
    }
}

/// Values as a decoder would order them that takes the nibbles of groups of `group` values alternately.
fn interleaved(values: &[f32], group: usize) -> Vec<f32> {
    let half = group / 2;
    let place = |i: usize| i / group * group + i % 2 * half + i % group / 2;
    (0..values.len()).map(|i| values[place(i)]).collect()
}

#[test]
fn interleaved_nibbles_are_rejected() {
    use DType::{IQ4_NL, IQ4_XS, MXFP4, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K};
    let groups = [
        (Q4_0, 32),
        (Q4_1, 32),
        (Q5_0, 32),
        (Q5_1, 32),
        (IQ4_NL, 32),
        (MXFP4, 32),
        (IQ4_XS, 32),
        (Q4_K, 64),
        (Q5_K, 64),
        (Q6_K, 128),
    ];
    for (dtype, group) in groups {
        let Golden { blocks, values, .. } = golden(dtype);
        let ours = decoded(dtype, &blocks);
        assert!(same(&ours, &values), "{dtype}");
        assert!(!same(&interleaved(&ours, group), &values), "{dtype}");
        // Nor can blocks be mistaken for one another, or each be written to the outputs of the first.
        let mut rotated = ours;
        rotated.rotate_left(dtype.block_len());
        assert!(!same(&rotated, &values), "{dtype}");
    }
}

/// A `Q4_K` decoder with a choice of scales: those of the last four groups have their upper bits elsewhere.
fn q4_k(blocks: &[u8], scale: impl Fn(&[u8], usize) -> (u8, u8)) -> Vec<f32> {
    let half = |bytes: &[u8]| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    let values = |block: &[u8]| -> [f32; 256] {
        let (d, dmin) = (half(block), half(&block[2..]));
        array::from_fn(|i| {
            let (s, m) = scale(&block[4..16], i / 32);
            let q = block[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
            d * f32::from(s) * f32::from(q) - dmin * f32::from(m)
        })
    };
    blocks.chunks(144).flat_map(values).collect()
}

#[test]
fn the_wrong_upper_bits_of_scales_are_rejected() {
    let Golden { blocks, values, .. } = golden(DType::Q4_K);
    let right = |s: &[u8], g: usize| match g {
        0..4 => (s[g] & 63, s[g + 4] & 63),
        _ => (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4),
    };
    assert!(same(&q4_k(&blocks, right), &values));
    let none = |s: &[u8], g: usize| match g {
        0..4 => right(s, g),
        _ => (s[g + 4] & 15, s[g + 4] >> 4),
    };
    assert!(!same(&q4_k(&blocks, none), &values));
    let swapped = |s: &[u8], g: usize| match g {
        0..4 => right(s, g),
        _ => (s[g + 4] & 15 | s[g] >> 6 << 4, s[g + 4] >> 4 | s[g - 4] >> 6 << 4),
    };
    assert!(!same(&q4_k(&blocks, swapped), &values));
}

/// An MXFP4 decoder with a choice of scales.
fn mxfp4(blocks: &[u8], scale: impl Fn(u8) -> f32) -> Vec<f32> {
    let values = |block: &[u8]| -> [f32; 32] {
        let d = scale(block[0]);
        array::from_fn(|i| {
            let code = block[1 + i % 16] >> (i / 16 * 4) & 15;
            d * f32::from(MXFP4_VALUES[usize::from(code)])
        })
    };
    blocks.chunks(17).flat_map(values).collect()
}

#[test]
fn mxfp4_scales_below_the_normal_numbers_are_exact_and_nothing_else_will_do() {
    let Golden { blocks, values, .. } = golden(DType::MXFP4);
    assert_eq!((blocks[0], blocks[17]), (0, 1));
    let power = |e: u8| 2f64.powi(i32::from(e) - 128);
    #[expect(clippy::cast_possible_truncation, reason = "powers of two, exact in f32")]
    let right = |e: u8| power(e) as f32;
    assert!(same(&mxfp4(&blocks, right), &values));
    let flushed = |e: u8| if e < 2 { 0.0 } else { right(e) };
    assert!(!same(&mxfp4(&blocks, flushed), &values));
    let shifted = |e: u8| f32::from_bits(u32::from(e).wrapping_sub(1) << 23);
    assert!(!same(&mxfp4(&blocks, shifted), &values));
    let undoubled = |e: u8| 2.0 * right(e);
    assert!(!same(&mxfp4(&blocks, undoubled), &values));
}

#[test]
fn every_bit_of_a_block_changes_its_values() {
    for Golden { dtype, blocks, values } in goldens() {
        let blocks = blocks.chunks(dtype.block_bytes());
        for bit in 0..8 * dtype.block_bytes() {
            let changes = blocks.clone().zip(values.chunks(dtype.block_len())).any(|(block, values)| {
                let mut block = block.to_vec();
                block[bit / 8] ^= 1 << (bit % 8);
                !same(&decoded(dtype, &block), values)
            });
            assert!(changes, "{dtype} bit {bit}");
        }
    }
}

#[test]
fn codebooks_are_strictly_ordered() {
    assert!(IQ4_VALUES.is_sorted_by(|a, b| a < b));
    let (positive, negative) = MXFP4_VALUES.split_at(8);
    assert!(positive.is_sorted_by(|a, b| a < b));
    assert!(positive.iter().zip(negative).all(|(p, n)| *p == -n));
}

#[test]
fn halves_are_those_of_the_scalar_conversion_in_rows_of_any_length() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let one_by_one = |bytes: &[u8]| -> Vec<f32> {
        let (halves, _) = bytes.as_chunks();
        halves.iter().map(|&half| half::f16::from_le_bytes(half).to_f32()).collect()
    };
    assert!(same(&decoded(DType::F16, &bytes), &one_by_one(&bytes)));
    for len in [1, 7, 8, 255, 256, 257, 511, 513] {
        let bytes = &bytes[0x3c00..0x3c00 + 2 * len];
        assert!(same(&decoded(DType::F16, bytes), &one_by_one(bytes)), "{len}");
    }
}

#[test]
fn encoding_gives_the_bytes_of_gguf_py() {
    let files: [(DType, &[u8]); 4] = [
        (DType::F16, include_bytes!("golden/F16.encode.bin")),
        (DType::BF16, include_bytes!("golden/BF16.encode.bin")),
        (DType::Q8_0, include_bytes!("golden/Q8_0.encode.bin")),
        (DType::Q4_0, include_bytes!("golden/Q4_0.encode.bin")),
    ];
    for (dtype, bytes) in files {
        let block = dtype.block_len() * 4;
        let (values, blocks) = bytes.split_at(bytes.len() / (block + dtype.block_bytes()) * block);
        let ours = encoded(dtype, &floats(values));
        let wrong = ours.iter().zip(blocks).position(|(ours, theirs)| ours != theirs);
        assert_eq!((wrong, ours.len()), (None, blocks.len()), "{dtype}: first wrong byte, bytes");
    }
}

#[test]
fn ties_are_rounded_as_ggml_does() {
    let mut values = [0.0; 32];
    // d = 1 for Q8_0.
    values[..6].copy_from_slice(&[127.0, 0.5, -0.5, 2.5, -2.5, 0.5f32.next_down()]);
    assert_eq!(encoded(DType::Q8_0, &values)[2..8], [127, 1, 255, 3, 253, 0]);
    // d = -1 for Q4_0: the first of two equal magnitudes is the one that is exact.
    values[..6].copy_from_slice(&[8.0, -8.0, 0.5, -0.5, 1.5, -1.5]);
    let codes = encoded(DType::Q4_0, &values)[2..8].iter().map(|byte| byte & 15).collect::<Vec<_>>();
    assert_eq!(codes, [0, 15, 8, 9, 7, 10]);
}

#[test]
fn a_type_without_an_encoder_says_so() {
    let mut out = [0; 144];
    let error = encode(DType::Q4_K, &[0.0; 256], &mut out).unwrap_err();
    assert_eq!(error, NoEncoder(DType::Q4_K));
    assert!(error.to_string().starts_with("Q4_K "), "{error}");
}

#[test]
fn nan_and_infinity_are_never_hidden() {
    // NaNs whose payload lies in the bits that are cut off, or carries into the sign when rounded.
    let nans = [0x7f80_0001, 0x7fc0_0000, 0x7fff_ffff, 0xffff_ffff].map(f32::from_bits);
    for bad in nans.into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
        let mut values = [1.0; 32];
        values[9] = bad;
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let back = decoded(dtype, &encoded(dtype, &values));
            assert!(same(&back, &values), "{dtype}: {bad} became {}", back[9]);
        }
        for dtype in [DType::Q8_0, DType::Q4_0] {
            let back = decoded(dtype, &encoded(dtype, &values));
            assert!(!back[9].is_finite(), "{dtype}: {bad} became {}", back[9]);
        }
    }
}

#[test]
#[should_panic(expected = "Q8_0: bytes of 64 values")]
fn a_row_that_is_cut_short_is_refused() {
    decode(DType::Q8_0, &[0; 67], &mut [0.0; 64]);
}

#[test]
#[should_panic(expected = "Q4_K: bytes of 128 values")]
fn a_part_of_a_block_is_refused() {
    decode(DType::Q4_K, &[0; 72], &mut [0.0; 128]);
}

fn dtypes() -> impl Strategy<Value = DType> {
    proptest::sample::select(DType::ALL.to_vec())
}

/// Up to four blocks of any bytes.
fn any_blocks() -> impl Strategy<Value = (DType, Vec<u8>)> {
    (dtypes(), 0..5usize).prop_flat_map(|(dtype, count)| {
        (Just(dtype), prop::collection::vec(any::<u8>(), count * dtype.block_bytes()))
    })
}

/// A row of up to four blocks of 32 values, some of them zero or large, of any size that has a half as scale.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![8 => -1f32..1.0, 1 => Just(0.0), 1 => -40f32..40.0];
    let row = (1..5usize).prop_flat_map(move |count| prop::collection::vec(value.clone(), 32 * count));
    (row, -30i32..10).prop_map(|(row, size)| row.into_iter().map(|value| value * 2f32.powi(size)).collect())
}

/// How far a half may be from the number it was rounded from: half a step, of the subnormals at least.
fn half_error(x: f32) -> f32 {
    (x.abs() / 2048.0).max(2f32.powi(-25))
}

proptest! {
    #[test]
    fn any_bytes_decode_block_by_block_to_what_they_are_as_a_row((dtype, blocks) in any_blocks()) {
        let row = decoded(dtype, &blocks);
        let singly: Vec<f32> =
            blocks.chunks(dtype.block_bytes()).flat_map(|block| decoded(dtype, block)).collect();
        prop_assert!(same(&row, &singly));
    }

    #[test]
    fn encoding_is_within_the_error_of_the_type(values in rows()) {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
            let back = decoded(dtype, &encoded(dtype, &values));
            for (values, back) in values.chunks(32).zip(back.chunks(32)) {
                let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                for (&value, &back) in values.iter().zip(back) {
                    let bound = match dtype {
                        DType::F32 => 0.0,
                        DType::F16 => half_error(value),
                        DType::BF16 => value.abs() / 256.0,
                        // Half a step, and a code of up to 127 times the error of `d`.
                        DType::Q8_0 => largest / 127.0 * 0.5 + 127.0 * half_error(largest / 127.0),
                        // A whole step, since the side opposite to the largest ends at 7; codes are up to 8.
                        _ => largest / 8.0 + 8.0 * half_error(largest / 8.0),
                    };
                    // The bound itself is computed with a few roundings, as are the quotients.
                    let bound = bound + largest * f32::EPSILON * 4.0;
                    prop_assert!((value - back).abs() <= bound, "{dtype}: {value} became {back}, bound {bound}");
                }
            }
        }
    }

    #[test]
    fn what_was_encoded_once_stays_as_it_is(values in rows()) {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let blocks = encoded(dtype, &values);
            prop_assert_eq!(encoded(dtype, &decoded(dtype, &blocks)), blocks);
        }
    }
}

/// `cargo test --release -p gemma4-core --lib quant -- --ignored --nocapture`
#[test]
#[ignore = "prints how fast decoding is, on one thread and from the cache"]
fn speed() {
    const VALUES: usize = 4096;
    for dtype in DType::ALL {
        let blocks = golden(dtype).blocks;
        let blocks: Vec<u8> = blocks.into_iter().cycle().take(dtype.row_bytes(VALUES).unwrap()).collect();
        let mut out = vec![0.0; VALUES];
        let best = (0..20)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..100 {
                    let blocks = black_box(blocks.as_slice());
                    dispatched(dtype, blocks, &mut out);
                    black_box(&mut out);
                }
                start.elapsed().as_secs_f64() / 100.0
            })
            .fold(f64::INFINITY, f64::min);
        let (values, bytes) = (VALUES as f64 / best / 1e9, blocks.len() as f64 / best / 1e9);
        println!("{:>6}: {values:6.2} G values/s from {bytes:6.2} GB/s of blocks", dtype.name());
    }
}
