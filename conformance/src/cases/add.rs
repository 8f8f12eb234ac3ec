//! Cases of `add`.

use super::{Case, U, inputs, op, plain};

pub(super) fn cases() -> Vec<Case> {
    [(1, 1), (3, 255), (2, 2816)].map(|(rows, cols)| case(rows, cols)).into()
}

fn case(rows: usize, cols: usize) -> Case {
    let mut case = Case::new("add", rows, format!("{cols} columns"));
    let (x, y) = (inputs(rows, cols, 1), plain(rows * cols, 2));
    let (a, b) = (case.input(&x), case.input(&y));
    case.program.add(a, b).expect("the widths agree");
    let want: Vec<f64> = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) + f64::from(y)).collect();
    // One rounding.
    let allowed = want.iter().map(|want| U * want.abs()).collect();
    case.expect(a, want, allowed)
        .mutant("second operand ignored", |case| case.change(1, |y| y.fill(0.0)))
        .mutant("the first operand twice", |case| case.tensors[1] = case.tensors[0].clone())
        .mutant("the sum goes to the second operand", |case| {
            let op = op!(case, Add);
            (op.x, op.y) = (op.y, op.x);
        })
}
