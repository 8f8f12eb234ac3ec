//! Cases of `rms_norm`.

use super::{Case, around_one, inputs, inverse_rms, op, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    // A block of threads has 256; 2816 and 5376 are real widths.
    [(1, 1), (3, 255), (2, 256), (4, 257), (5, 2816), (2, 5376)]
        .map(|(rows, cols)| case(rows, cols))
        .into_iter()
        .chain([(5, 2816), (4, 257)].map(|(rows, cols)| picked(rows, cols)))
        .collect()
}

/// The norm of some rows, in another order.
fn picked(rows: usize, cols: usize) -> Case {
    let mut case = Case::new("rms_norm", rows, format!("some rows of {cols} columns"));
    let x = inputs(rows, cols, 4);
    let weight = around_one(cols, 5);
    let input = case.input(&x);
    let w = case.weight([1, 1, cols], &weight);
    let gathered = case.program.gather_rows(input);
    let out = case.program.rms_norm(gathered, w, 1e-6).expect("the widths agree");
    case.picked = vec![super::narrow(rows - 1), 0, 2];
    let x = wide(&x);
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for &row in &case.picked {
        let x = &x[row as usize * cols..][..cols];
        let scale = inverse_rms(x, f64::from(1e-6f32));
        want.extend(x.iter().zip(&weight).map(|(x, &w)| x * scale * f64::from(w)));
    }
    allowed.extend(want.iter().map(|want: &f64| sum_error(cols) * want.abs()));
    case.expect(out, want, allowed)
        .mutant("the first rows", |case| (0..).zip(&mut case.picked).for_each(|(i, row)| *row = i))
}

fn case(rows: usize, cols: usize) -> Case {
    let mut case = Case::new("rms_norm", rows, format!("{cols} columns"));
    // The last row is so small that eps matters.
    let mut x = inputs(rows, cols, 4);
    x[(rows - 1) * cols..].iter_mut().for_each(|x| *x *= 1e-3);
    let weight = around_one(cols, 5);
    let input = case.input(&x);
    let w = case.weight([1, 1, cols], &weight);
    let out = case.program.rms_norm(input, w, 1e-6).expect("the widths agree");
    let want: Vec<f64> = wide(&x)
        .chunks(cols)
        .flat_map(|x| {
            let scale = inverse_rms(x, f64::from(1e-6f32));
            x.iter().zip(&weight).map(|(x, &w)| x * scale * f64::from(w)).collect::<Vec<_>>()
        })
        .collect();
    // All terms of the sum are positive, so its error is relative; 16 covers square, divide, add, root and products.
    let allowed = want.iter().map(|want| sum_error(cols) * want.abs()).collect();
    case.expect(out, want, allowed)
        .mutant("weight ignored", |case| case.change(1, |w| w.fill(1.0)))
        .mutant("1 + weight", |case| case.change(1, |w| w.iter_mut().for_each(|w| *w += 1.0)))
        .mutant("eps a thousand times larger", |case| op!(case, RmsNorm).eps = 1e-3)
        .mutant("no eps", |case| op!(case, RmsNorm).eps = 0.0)
        .mutant("input shifted by one", |case| case.change(0, |x| x.rotate_right(1)))
}
