//! Cases of `ple_inputs`.

use super::{Case, U, around_one, inputs, inverse_rms, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    [(1, 1, 32), (3, 4, 64), (2, 3, 256)].map(|(rows, layers, ple)| case(rows, layers, ple)).into()
}

fn case(rows: usize, layers: usize, ple: usize) -> Case {
    let (cols, hidden) = (layers * ple, 1536);
    let mut case = Case::new("ple_inputs", rows, format!("{layers} layers of {ple}"));
    let (context, table, norm) = (inputs(rows, cols, 15), plain(rows * cols, 16), around_one(ple, 17));
    let input = case.input(&context);
    let t = case.weight([1, rows, cols], &table);
    let n = case.weight([1, 1, ple], &norm);
    let out = case.program.ple_inputs(input, t, n, hidden, 1e-6).expect("the widths agree");
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    let root = (hidden as f64).sqrt();
    for (context, table) in wide(&context).chunks(ple).zip(wide(&table).chunks(ple)) {
        let b: Vec<f64> = context.iter().map(|x| x / root).collect();
        let scale = inverse_rms(&b, f64::from(1e-6f32));
        for ((b, a), &w) in b.iter().zip(table).zip(&norm) {
            let (b, a) = (b * scale * f64::from(w), a * (ple as f64).sqrt());
            want.push((b + a) / 2f64.sqrt());
            allowed.push(sum_error(ple) * b.abs() + 4.0 * U * (a.abs() + b.abs()));
        }
    }
    case.expect(out, want, allowed)
        .mutant("norm ignored", |case| case.change(2, |w| w.fill(1.0)))
        .mutant("the context is not divided by sqrt(hidden)", |case| op!(case, PleInputs).hidden = 1)
        .mutant("the table is not scaled", move |case| {
            let scale = 1.0 / (ple as f32).sqrt();
            case.change(1, |t| t.iter_mut().for_each(|t| *t *= scale));
        })
        .mutant("the norm runs over all layers", move |case| {
            // A norm weight as long as the table is wide, with the scale of the table put right.
            let scale = 1.0 / (layers as f32).sqrt();
            case.change(1, |t| t.iter_mut().for_each(|t| *t *= scale));
            case.replace(2, [1, 1, cols], &norm.repeat(layers));
        })
        .mutant("the sum is not divided by sqrt(2)", move |case| {
            let root = 2f32.sqrt();
            case.change(1, |t| t.iter_mut().for_each(|t| *t *= root));
            case.change(2, |w| w.iter_mut().for_each(|w| *w *= root));
        })
}
