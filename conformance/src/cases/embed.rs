//! Cases of `embed`.

use gemma4_core::tensor::DType;

use super::{Case, U, bytes, inputs, op};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (vocab, cols) in [(1, 32), (5, 96), (40, 2816)] {
        let values = inputs(vocab, cols, 3);
        cases.push(case(vocab, cols, DType::F32, bytes(&values), &values));
        // Bf16 is the upper half of f32.
        let upper: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()[2..].to_vec()).collect();
        let short: Vec<f32> = values.iter().map(|v| f32::from_bits(v.to_bits() & 0xFFFF_0000)).collect();
        cases.push(case(vocab, cols, DType::BF16, upper, &short));
        // Q8_0 with the step 0.25 = 0x3400 in f16 and values that count along the row.
        let q = |i: usize| i8::try_from(i * 7 % 255).map_or(-100, |q| q - 60);
        let block = |b: usize| [0x00, 0x34].into_iter().chain((0..32).map(move |i| q(b * 32 + i).cast_unsigned()));
        let blocks: Vec<u8> = (0..vocab * cols / 32).flat_map(block).collect();
        let decoded: Vec<f32> = (0..vocab * cols).map(|i| 0.25 * f32::from(q(i))).collect();
        cases.push(case(vocab, cols, DType::Q8_0, blocks, &decoded));
    }
    cases
}

fn case(vocab: usize, cols: usize, dtype: DType, table: Vec<u8>, values: &[f32]) -> Case {
    let rows = 3;
    let mut case = Case::new("embed", rows, format!("{vocab} tokens of {cols} {dtype}"));
    let tokens: Vec<usize> = (0..rows).map(|r| (r * 7 + vocab - 1) % vocab).collect();
    for (row, &token) in case.rows.iter_mut().zip(&tokens) {
        row.token = super::narrow(token);
    }
    let table = case.raw_weight(dtype, [1, vocab, cols], table);
    let scale = (cols as f32).sqrt();
    let out = case.program.embed(table, scale);
    let row = |&token: &usize| values[token * cols..(token + 1) * cols].iter();
    let want: Vec<f64> =
        tokens.iter().flat_map(row).map(|&value| f64::from(value) * f64::from(scale)).collect();
    // One rounding to decode and one of the product.
    let allowed = want.iter().map(|want| 2.0 * U * want.abs()).collect();
    case.expect(out, want, allowed)
        .mutant("not scaled", |case| op!(case, Embed).scale = 1.0)
        .mutant("the scale rounded to bf16", |case| {
            let op = op!(case, Embed);
            op.scale = f32::from_bits((op.scale.to_bits() + 0x8000) & 0xFFFF_0000);
        })
        .mutant("the next token", move |case| {
            let vocab = super::narrow(vocab);
            case.rows.iter_mut().for_each(|row| row.token = (row.token + 1) % vocab);
        })
}
