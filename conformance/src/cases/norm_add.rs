//! Cases of `norm_add`.

use gemma4_core::numeric::round;

use super::{Case, U, around_one, inputs, inverse_rms, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    [(1, 32), (3, 255), (4, 257), (2, 5376)].map(|(rows, cols)| case(rows, cols)).into()
}

fn case(rows: usize, cols: usize) -> Case {
    let mut case = Case::new("norm_add", rows, format!("{cols} columns"));
    let (r, y, weight) = (plain(rows * cols, 6), inputs(rows, cols, 7), around_one(cols, 8));
    let (residual, branch) = (case.input(&r), case.input(&y));
    let w = case.weight([1, 1, cols], &weight);
    let scale = 0.4375f32;
    case.program.norm_add(residual, branch, w, scale, 1e-6).expect("the widths agree");
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (r, y) in wide(&r).chunks(cols).zip(wide(&y).chunks(cols)) {
        let norm = inverse_rms(y, f64::from(1e-6f32));
        for ((r, y), &w) in r.iter().zip(y).zip(&weight) {
            let (branch, scale) = (y * norm * f64::from(w), f64::from(scale));
            want.push((r + branch) * scale);
            // The branch errs as a norm does; then a sum and a product.
            allowed.push(scale * (sum_error(cols) * branch.abs() + 2.0 * U * (r.abs() + branch.abs())));
        }
    }
    case.expect(residual, want, allowed)
        .mutant("weight ignored", |case| case.change(2, |w| w.fill(1.0)))
        .mutant("1 + weight", |case| case.change(2, |w| w.iter_mut().for_each(|w| *w += 1.0)))
        .mutant("no scale", |case| op!(case, NormAdd).scale = 1.0)
        .mutant("the scale multiplies the branch alone", |case| {
            case.change(2, |w| w.iter_mut().for_each(|w| *w *= 0.4375));
            op!(case, NormAdd).scale = 1.0;
        })
        .mutant("the residual is normed too", move |case| {
            case.change(0, |r| {
                for r in r.chunks_mut(cols) {
                    let norm = round(inverse_rms(&wide(r), 1e-6));
                    for r in r {
                        *r *= norm;
                    }
                }
            });
        })
        .mutant("eps a thousand times larger", |case| op!(case, NormAdd).eps = 1e-2)
}
