//! Cases of `softcap`.

use super::{Case, U, inputs, op, wide};

pub(super) fn cases() -> Vec<Case> {
    [(1, 1), (3, 1000)].map(|(rows, cols)| case(rows, cols)).into()
}

fn case(rows: usize, cols: usize) -> Case {
    let mut case = Case::new("softcap", rows, format!("{cols} columns"));
    let x: Vec<f32> = inputs(rows, cols, 9).into_iter().map(|x| 10.0 * x).collect();
    let input = case.input(&x);
    case.program.softcap(input, 30.0);
    let want: Vec<f64> = wide(&x).iter().map(|x| 30.0 * (x / 30.0).tanh()).collect();
    // A quotient, tanh to 5 units in the last place as CUDA and WGSL have it, and a product.
    let allowed = want.iter().map(|want| 16.0 * U * want.abs()).collect();
    case.expect(input, want, allowed)
        .mutant("no cap", |case| op!(case, Softcap).cap = 1e9)
        .mutant("clipped", |case| {
            case.change(0, |x| x.iter_mut().for_each(|x| *x = x.clamp(-30.0, 30.0)));
            op!(case, Softcap).cap = 1e9;
        })
        .mutant("another cap", |case| op!(case, Softcap).cap = 50.0)
}
