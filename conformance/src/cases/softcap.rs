//! Cases of `softcap`.

use gemma4_core::program::Class;

use super::{Case, U, inputs, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    let alone = [(1, 1), (3, 1000)].map(|(rows, cols)| case(rows, cols));
    alone.into_iter().chain([1, 5].map(of_product)).collect()
}

/// The cap of a product's outputs, which a backend may take at once.
fn of_product(rows: usize) -> Case {
    let (cols, outputs, cap) = (96, 37, 30.0);
    let mut case = Case::new("softcap", rows, format!("{outputs} outputs of a product"));
    case.program.class = Class::Decode;
    let (x, weight) = (inputs(rows, cols, 20), plain(outputs * cols, 21));
    let input = case.input(&x);
    let w = case.weight([1, outputs, cols], &weight);
    let out = case.program.linear(input, &[w]).expect("the widths agree");
    case.program.softcap(out, 30.0);
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for x in wide(&x).chunks(cols) {
        for w in wide(&weight).chunks(cols) {
            let terms = || x.iter().zip(w).map(|(x, w)| x * w);
            let (product, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            want.push(cap * (product / cap).tanh());
            // The slope is at most 1; then as alone.
            allowed.push(sum_error(cols) * size + 16.0 * U * (cap * (product / cap).tanh()).abs());
        }
    }
    case.expect(out, want, allowed).mutant("another cap", |case| op!(case, Softcap).cap = 50.0)
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
