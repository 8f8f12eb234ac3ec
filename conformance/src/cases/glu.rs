//! Cases of `glu`.

use gemma4_core::numeric::round;
use gemma4_core::ops::glu::{Activation, Columns};

use super::{Case, U, gelu, inputs, op, wide};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for activation in [Activation::GeluTanh, Activation::Silu] {
        cases.extend([(1, 32), (3, 257), (2, 2112)].map(|(rows, cols)| halves(activation, rows, cols)));
    }
    cases.push(known());
    cases
}

/// Gate and second operand are halves of one activation.
fn halves(activation: Activation, rows: usize, cols: usize) -> Case {
    let mut case = Case::new("glu", rows, format!("{cols} columns, {activation:?}"));
    let x = inputs(rows, 2 * cols, 11);
    let both = case.input(&x);
    let (gate, up) = (Columns { act: both, start: 0 }, Columns { act: both, start: cols });
    let out = case.program.glu_by(activation, gate, up, cols).expect("the halves fit");
    let f = |x: f64| if activation == Activation::Silu { x / (1.0 + (-x).exp()) } else { gelu(x) };
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for row in wide(&x).chunks(2 * cols) {
        for (gate, up) in row[..cols].iter().zip(&row[cols..]) {
            want.push(f(*gate) * up);
            // 1 + tanh cancels for negative gates: the error is that of a number up to 1, times gate and up. The
            // argument of tanh errs by some u of itself, and tanh' times the argument is below 1.
            allowed.push(16.0 * U * (gate * up).abs());
        }
    }
    case.expect(out, want, allowed)
        .mutant("halves swapped", |case| {
            let op = op!(case, Glu);
            (op.gate, op.up) = (op.up, op.gate);
        })
        .mutant("the other activation", |case| {
            let op = op!(case, Glu);
            op.activation = match op.activation {
                Activation::GeluTanh => Activation::Silu,
                Activation::Silu => Activation::GeluTanh,
            };
        })
        .mutant("second operand shifted by one", |case| op!(case, Glu).up.start -= 1)
        .mutant("gelu of both", move |case| {
            case.change(0, |x| {
                x.chunks_mut(cols).skip(1).step_by(2).flatten().for_each(|x| *x = round(gelu((*x).into())));
            });
        })
}

/// Values of `torch.nn.functional.gelu(x, approximate="tanh")`, from its documentation's formula in high precision.
fn known() -> Case {
    const GELU: [(f32, f64); 6] = [
        (-10.0, 0.0),
        (-1.0, -0.158_808_009_391_723_24),
        (0.0, 0.0),
        (0.5, 0.345_714_009_827_303_2),
        (1.0, 0.841_191_990_608_276_8),
        (3.0, 2.996_362_607_918_227),
    ];
    let mut case = Case::new("glu", 1, "known values");
    let x: Vec<f32> = GELU.iter().map(|&(x, _)| x).chain([1.0; 6]).collect();
    let both = case.input(&x);
    let (gate, up) = (Columns { act: both, start: 0 }, Columns { act: both, start: 6 });
    let out = case.program.glu(gate, up, 6).expect("the halves fit");
    let want = GELU.iter().map(|&(_, y)| y).collect();
    case.expect(out, want, GELU.iter().map(|&(x, _)| 16.0 * U * f64::from(x).abs()).collect()).mutant(
        "the exact gelu",
        |case| {
            // At 1 the exact gelu is 0.841345; a gate of this value gives it.
            case.change(0, |x| x[4] = 1.000_141);
        },
    )
}
