//! Cases of `linear`.

use gemma4_core::tensor::DType;

use super::{Case, Settings, inputs, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    // Rows around the sizes of tiles, widths with and without a rest, one and several stacked weights.
    [(1, 32, vec![1]), (1, 2816, vec![64, 16, 16]), (7, 257, vec![33]), (9, 96, vec![17, 5]), (17, 64, vec![8])]
        .map(|(rows, cols, outputs)| case(rows, cols, &outputs))
        .into_iter()
        .chain([quantised()])
        .collect()
}

fn case(rows: usize, cols: usize, outputs: &[usize]) -> Case {
    let mut case = Case::new("linear", rows, format!("{cols} to {outputs:?}"));
    let x = inputs(rows, cols, 12);
    let input = case.input(&x);
    let all = plain(outputs.iter().sum::<usize>() * cols, 13);
    let (mut weights, mut rest) = (Vec::new(), &all[..]);
    for &outputs in outputs {
        let (part, after) = rest.split_at(outputs * cols);
        weights.push(case.weight([1, outputs, cols], part));
        rest = after;
    }
    let out = case.program.linear(input, &weights).expect("the widths agree");
    let (want, allowed) = product(&wide(&x), &wide(&all), cols);
    case.expect(out, want, allowed)
        .mutant("weights stacked in another order", |case| op!(case, Linear).weights.reverse())
        .mutant("a column too few", move |case| {
            case.change(0, |x| x.chunks_mut(cols).for_each(|x| x[cols - 1] = 0.0));
        })
        .mutant("input shifted by one", |case| case.change(0, |x| x.rotate_right(1)))
}

/// `x · weightᵀ` and its bound.
fn product(x: &[f64], weight: &[f64], cols: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for x in x.chunks(cols) {
        for w in weight.chunks(cols) {
            let terms = || x.iter().zip(w).map(|(x, w)| x * w);
            want.push(terms().sum());
            allowed.push(sum_error(cols) * terms().map(f64::abs).sum::<f64>());
        }
    }
    (want, allowed)
}

/// Every type that files hold: what `quant::decode` says, in a product.
fn quantised() -> Case {
    let (rows, cols) = (2, 512);
    let mut case = Case::new("linear", rows, "every type of weight");
    case.settings = vec![Settings::default(); rows];
    let x = plain(rows * cols, 14);
    let input = case.input(&x);
    let (mut weights, mut all) = (Vec::new(), Vec::new());
    for dtype in DType::ALL {
        let outputs = 3;
        let row_bytes = dtype.row_bytes(cols).expect("whole blocks");
        let mut data: Vec<u8> = (0..outputs * row_bytes).map(|i| (i * 89 % 251).to_le_bytes()[0]).collect();
        // Scales of ordinary size, and floats that are numbers.
        for block in data.chunks_exact_mut(dtype.block_bytes()) {
            match dtype {
                DType::F32 => block.copy_from_slice(&(f32::from(block[0]) / 100.0 - 1.0).to_le_bytes()),
                DType::F16 => block[1] = 0x38 | (block[1] & 0x83),
                DType::BF16 => block[1] = 0x3F | (block[1] & 0x80),
                DType::MXFP4 => block[0] = 120 + block[0] % 8,
                DType::Q2_K => block[80..84].copy_from_slice(&[0x10, 0x2C, 0x08, 0x28]),
                DType::Q3_K => block[108..110].copy_from_slice(&[0x10, 0x2C]),
                DType::Q6_K => block[208..210].copy_from_slice(&[0x10, 0x2C]),
                DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => {
                    block[..4].copy_from_slice(&[0x10, 0x2C, 0x08, 0x28]);
                }
                _ => block[..2].copy_from_slice(&[0x10, 0x2C]),
            }
        }
        let mut decoded = vec![0.0f32; outputs * cols];
        gemma4_core::quant::decode(dtype, &data, &mut decoded);
        all.extend(wide(&decoded));
        weights.push(case.raw_weight(dtype, [1, outputs, cols], data));
    }
    let out = case.program.linear(input, &weights).expect("the widths agree");
    let (want, allowed) = product(&wide(&x), &all, cols);
    case.expect(out, want, allowed).mutant("types in another order", |case| op!(case, Linear).weights.reverse())
}
