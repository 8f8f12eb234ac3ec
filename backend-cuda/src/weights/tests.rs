use gemma4_core::quant;
use gemma4_core::tensor::{Bytes, DType, Tensor};

use super::layout::{Form, Layout, Scales};

/// Bytes that look random, with scales that are finite and not large.
fn bytes(dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64 ^ u64::from(dtype.ggml());
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let mut data: Vec<u8> =
        (0..dtype.row_bytes(cols).expect("whole blocks") * rows).map(|_| next()).collect();
    // f16 scales between 2^-8 and 2^-5, by the upper byte of each; MXFP4 exponents around 1.
    let halves: &[usize] = match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::MXFP4 => &[],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        _ => &[0],
    };
    for block in data.chunks_exact_mut(dtype.block_bytes()) {
        for &half in halves {
            block[half + 1] = 0x1C + block[half + 1] % 12;
        }
        match dtype {
            DType::MXFP4 => block[0] = 120 + block[0] % 16,
            DType::F32 => block[3] = 0x3C + block[3] % 6,
            DType::F16 => block[1] = 0x2C + block[1] % 12,
            DType::BF16 => block[1] = 0x3C + block[1] % 6,
            _ => {}
        }
    }
    data
}

/// The value of an element, from the planes alone: what kernels do, one element at a time.
fn value(layout: &Layout, dtype: DType, planes: &[Vec<u8>; 4], row: usize, col: usize) -> f64 {
    let tile_bytes = layout.tile_bytes();
    let tile = row / 16;
    let plane = |p: usize| &planes[p][tile * tile_bytes[p]..(tile + 1) * tile_bytes[p]];
    let u16_at = |p: usize, i: usize| u16::from_le_bytes([plane(p)[2 * i], plane(p)[2 * i + 1]]);
    let u32_at = |p: usize, i: usize| u32::from(u16_at(p, 2 * i)) | u32::from(u16_at(p, 2 * i + 1)) << 16;
    let half = |bits: u16| f64::from(half::f16::from_bits(bits));
    let Form { bits, extra, scales } = Form::of(dtype);
    let r = row % 16;
    let (chunk, product, t, i) = (col / 64, col % 64 / 16, col % 16 / 4, col % 4);
    let lane = r % 8 * 4 + t;
    let of_halves = i / 2 * 2 + r / 8;
    let at = chunk * 32 + lane;
    let (block, group16, group32) = (col / 256, col % 256 / 16, col % 256 / 32);
    if scales == Scales::Row {
        let scale = f64::from(f32::from_bits(u32_at(2, r)));
        let high = half(u16_at(0, (at * bits + 4 * product + of_halves) * 2 + i % 2));
        let low = if bits == 32 {
            half(u16_at(0, (at * bits + 16 + 4 * product + of_halves) * 2 + i % 2))
        } else {
            0.0
        };
        return (high + low / 2048.0) * scale;
    }
    let (group, register) = (col % 64 / 32, col % 32 / 16 * 2 + r / 8);
    let byte = [0, 2, 1, 3][i] * 8;
    let (word, first) = super::pack::code_place(bits, group, register);
    let upper = u32_at(0, at * bits + word) >> (byte + first) & ((1 << bits) - 1);
    let lower = if extra == 0 {
        0
    } else {
        let (word, first) = super::pack::extra_place(extra, group, register);
        u32_at(1, at * extra + word) >> (byte + first) & ((1 << extra) - 1)
    };
    let code = (upper << extra | lower) ^ u32::from(super::pack::turned(dtype));
    let codebook = |book: [i8; 16]| f64::from(book[code as usize]);
    let code = match dtype {
        DType::IQ4_NL | DType::IQ4_XS => codebook(quant::IQ4_VALUES),
        DType::MXFP4 => codebook(quant::MXFP4_VALUES),
        DType::Q4_0 => f64::from(code) - 8.0,
        DType::Q5_0 => f64::from(code) - 16.0,
        DType::Q8_0 => f64::from(code) - 128.0,
        DType::Q6_K => f64::from(code) - 32.0,
        DType::Q3_K => f64::from(code) - 4.0,
        _ => f64::from(code),
    };
    let signed = |byte: u8| f64::from(byte.cast_signed());
    let row_of_block = block * 16 + r;
    match scales {
        Scales::Half | Scales::HalfMin => {
            let parts = if scales == Scales::Half { 1 } else { 2 };
            let at = (chunk * 8 + r % 8) * 4 * parts + r / 8 * 2 + col % 64 / 32;
            let bits = u16_at(2, at);
            let d = if dtype == DType::MXFP4 {
                f64::from(f32::from_bits(u32::from(bits) << 16))
            } else {
                half(bits)
            };
            d * code + if parts == 2 { half(u16_at(2, at + 4)) } else { 0.0 }
        }
        Scales::SixBit => {
            let words: [u32; 4] = std::array::from_fn(|i| u32_at(2, row_of_block * 4 + i));
            let j = group32;
            let two = |word: usize| words[word] >> (8 * (j % 4) + 6) & 3;
            let s = match j {
                0..4 => words[3] >> (8 * j) & 63,
                _ => two(2) | two(1) << 2 | two(3) << 4,
            };
            let m = words[1 + j / 4] >> ([0, 2, 1, 3][j % 4] * 8) & 63;
            let (d, dmin) = (half((words[0] & 0xFFFF) as u16), half((words[0] >> 16) as u16));
            d * f64::from(s) * code - dmin * f64::from(m)
        }
        Scales::Byte16 => {
            half(u16_at(3, row_of_block)) * signed(plane(2)[row_of_block * 16 + group16]) * code
        }
        Scales::Byte32 => half(u16_at(3, row_of_block)) * signed(plane(2)[row_of_block * 8 + group32]) * code,
        _ => {
            let s = u32_at(2, row_of_block * 4 + group16 / 8) >> (4 * (group16 % 8)) & 15;
            let m = u32_at(2, row_of_block * 4 + 2 + group16 / 8)
                >> (4 * (group16 % 8 / 2) + 16 * (group16 % 2))
                & 15;
            half(u16_at(3, 2 * row_of_block)) * f64::from(s) * code
                - half(u16_at(3, 2 * row_of_block + 1)) * f64::from(m)
        }
    }
}

#[test]
fn every_type_is_what_its_file_says() {
    for dtype in DType::ALL {
        let widths: &[usize] = match dtype.block_len() {
            256 => &[256, 768],
            32 => &[32, 352, 704],
            _ => &[1, 33, 257],
        };
        for &cols in widths {
            let (experts, rows) = (2, 21);
            let data = bytes(dtype, experts * rows, cols);
            let tensor =
                Tensor::new("w", dtype, [experts, rows, cols], Bytes::from_owner(data)).expect("bytes fit");
            let layout = Layout::new(&tensor);
            let tile_bytes = layout.tile_bytes();
            let mut planes: [Vec<u8>; 4] = tile_bytes.map(|bytes| vec![0xAA; bytes * layout.tiles()]);
            for tile in 0..layout.tiles() {
                let mut parts = planes
                    .iter_mut()
                    .zip(tile_bytes)
                    .map(|(plane, bytes)| &mut plane[tile * bytes..(tile + 1) * bytes]);
                let parts = std::array::from_fn(|_| parts.next().expect("four planes"));
                layout.fill(&tensor, tile, parts);
            }
            let mut want = vec![0.0f32; cols];
            for expert in 0..experts {
                for row in 0..rows {
                    quant::decode(dtype, tensor.row(expert, row), &mut want);
                    let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                    for (col, &want) in want.iter().enumerate() {
                        let got =
                            value(&layout, dtype, &planes, expert * layout.tiles_of_expert() * 16 + row, col);
                        // Two halves of an f32 hold 22 bits; block types lose nothing but the rounding of `decode`.
                        let allowed =
                            f64::from(want.abs()) * 2f64.powi(-22) + f64::from(largest) * 2f64.powi(-24);
                        let off = (got - f64::from(want)).abs();
                        assert!(
                            off <= allowed,
                            "{dtype} {cols} wide, {expert} {row} {col}: {got}, not {want}"
                        );
                    }
                }
            }
        }
    }
}
