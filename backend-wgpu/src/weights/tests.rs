//! What becomes of the bytes of each type.

use std::collections::HashSet;

use gemma4_core::quant;
use gemma4_core::tensor::DType;

use super::Cut;

/// A row of the file in the layout of the device.
fn packed(dtype: DType, row: &[u8], cols: usize) -> Vec<u8> {
    let cut = Cut::of(dtype);
    let mut to = vec![0; cut.layout(cols).stride as usize * 4];
    cut.row(row, &mut to);
    to
}

/// Bits that are set, by their number in the row.
fn ones(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len() * 8).filter(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect()
}

#[test]
fn every_bit_of_a_row_has_a_place_of_its_own() {
    for dtype in DType::ALL {
        let cols = if dtype.block_len() == 256 { 512 } else { 32 * 11 };
        let bytes = dtype.row_bytes(cols).unwrap();
        let mut places = HashSet::new();
        for bit in 0..bytes * 8 {
            let mut row = vec![0; bytes];
            row[bit / 8] = 1 << (bit % 8);
            let ones = ones(&packed(dtype, &row, cols));
            assert_eq!(ones.len(), 1, "{dtype}, bit {bit}");
            assert!(places.insert(ones[0]), "{dtype}, bit {bit}");
        }
    }
}

#[test]
fn rows_take_little_more_than_in_the_file() {
    for dtype in DType::ALL {
        let cols = 2816;
        let bytes = dtype.row_bytes(cols).unwrap();
        let layout = Cut::of(dtype).layout(cols);
        let stride = layout.stride as usize * 4;
        assert_eq!(stride % 16, 0, "{dtype}");
        assert!(layout.tails <= layout.stride, "{dtype}");
        // Sixteen bytes of padding, and two for each block of Q3_K.
        assert!((bytes..bytes + 16 + 2 * cols / 256).contains(&stride), "{dtype}: {bytes} become {stride}");
    }
}

/// Where the nibbles of 32 columns are: the byte of the first of four words, from the start of the row.
fn nibbles_of(dtype: DType, chunk: usize) -> Option<usize> {
    let (block, group) = (chunk / 8, chunk % 8);
    match dtype {
        DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::IQ4_NL | DType::MXFP4 => {
            Some(16 * chunk)
        }
        DType::Q4_K => Some(144 * block + 16 + 16 * group),
        DType::Q5_K => Some(176 * block + 48 + 16 * group),
        DType::Q6_K => Some(208 * block + 16 * group),
        DType::IQ4_XS => Some(128 * block + 16 * group),
        _ => None,
    }
}

#[test]
fn nibbles_are_where_lanes_look_for_them() {
    for dtype in DType::ALL {
        let cols = 768;
        let bytes = dtype.row_bytes(cols).unwrap();
        // All scales 1 or so, codes 0: one nibble at a time changes one value.
        let mut row = vec![0u8; bytes];
        for block in row.chunks_exact_mut(dtype.block_bytes()) {
            match dtype {
                DType::Q6_K => {
                    block[192..208].fill(1);
                    block[208..].copy_from_slice(&[0, 0x3C]);
                }
                DType::Q4_K | DType::Q5_K => {
                    block[..16].copy_from_slice(&[0, 0x3C, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]);
                }
                DType::IQ4_XS => block[..8].copy_from_slice(&[0, 0x3C, 0, 0, 0x11, 0x11, 0x11, 0x11]),
                DType::MXFP4 => block[0] = 128,
                _ => block[..2].copy_from_slice(&[0, 0x3C]),
            }
        }
        let device = packed(dtype, &row, cols);
        let mut before = vec![0.0; cols];
        quant::decode(dtype, &row, &mut before);
        let mut found = 0;
        for bit in (0..bytes * 8).step_by(4) {
            let mut changed = row.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut after = vec![0.0; cols];
            quant::decode(dtype, &changed, &mut after);
            let columns: Vec<usize> =
                (0..cols).filter(|&c| before[c].to_bits() != after[c].to_bits()).collect();
            let &[col] = &columns[..] else { continue };
            let Some(start) = nibbles_of(dtype, col / 32) else { continue };
            let places: Vec<usize> = {
                let now = packed(dtype, &changed, cols);
                let differs: Vec<u8> = now.iter().zip(&device).map(|(a, b)| a ^ b).collect();
                ones(&differs)
            };
            let position = (col / 4 % 8) ^ (col / 32 % 8);
            let place = (start + position % 4 * 4 + col % 4) * 8 + position / 4 * 4;
            let nibbles = start * 8..(start + 16) * 8;
            if nibbles.contains(&places[0]) {
                assert_eq!(places, [place], "{dtype}, column {col}");
                found += 1;
            }
        }
        assert_eq!(found, if nibbles_of(dtype, 0).is_some() { cols } else { 0 }, "{dtype}");
    }
}
