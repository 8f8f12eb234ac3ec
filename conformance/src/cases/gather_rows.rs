//! Cases of `gather_rows`.

use super::{Case, inputs, wide};

pub(super) fn cases() -> Vec<Case> {
    [(1, 32, vec![0]), (5, 257, vec![4, 0, 2]), (4, 96, vec![3, 3])]
        .map(|(rows, cols, picked)| case(rows, cols, picked))
        .into()
}

fn case(rows: usize, cols: usize, picked: Vec<u32>) -> Case {
    let mut case = Case::new("gather_rows", rows, format!("{picked:?} of {cols} columns"));
    let x = inputs(rows, cols, 10);
    let input = case.input(&x);
    let out = case.program.gather_rows(input);
    let x = wide(&x);
    let want: Vec<f64> =
        picked.iter().flat_map(|&row| x[row as usize * cols..][..cols].to_vec()).collect();
    case.picked = picked;
    // A copy.
    let allowed = vec![0.0; want.len()];
    case.expect(out, want, allowed)
        .mutant("the first rows", |case| (0..).zip(&mut case.picked).for_each(|(i, row)| *row = i))
        .mutant("the last row", move |case| case.picked.fill(super::narrow(rows - 1)))
}
