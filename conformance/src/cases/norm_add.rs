//! Cases of `norm_add`.

use gemma4_core::numeric::round;
use gemma4_core::ops::glu::Columns;
use gemma4_core::program::Class;

use super::{Case, U, around_one, gelu, inputs, inverse_rms, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    let alone = [(1, 32), (3, 255), (4, 257), (2, 5376)].map(|(rows, cols)| case(rows, cols));
    let joined = [(1, 32), (3, 255), (4, 1028), (2, 2816)];
    let joined = joined.into_iter().flat_map(|(rows, cols)| Joined::ALL.map(|of| of.case(rows, cols)));
    // Where rows are few a backend may divide wide ones.
    let few = [(2, 5376), (3, 1030)].map(|(rows, cols)| case(rows, cols));
    let few_joined = [(4, 1028), (3, 1030), (2, 2816), (1, 5376)];
    let few_joined =
        few_joined.into_iter().flat_map(|(rows, cols)| Joined::ALL.map(|of| of.case(rows, cols)));
    let few = few.into_iter().chain(few_joined).map(generated);
    let gated = [(1, 32), (3, 1056), (2, 2560), (1, 4096)].map(|(rows, cols)| gated(rows, cols));
    let behind = [(1, 32), (1, 1056), (2, 5376), (1, 5376)];
    let behind =
        behind.into_iter().flat_map(|(rows, cols)| [false, true].map(|norm| ended(rows, cols, norm)));
    alone.into_iter().chain(joined).chain(few).chain(gated).chain(behind).collect()
}

/// The same of generated rows.
fn generated(mut case: Case) -> Case {
    case.name.push_str(", generated");
    case.program.class = Class::Decode;
    case
}

/// A product, a `norm_add` of it, and the norm of the sum: the end of a branch. What is looked at is that norm, or the sum.
fn ended(rows: usize, cols: usize, looks_at_norm: bool) -> Case {
    let (eps, scale, inner) = (1e-6f32, 0.4375f32, 96);
    let what = if looks_at_norm { "norm" } else { "sum" };
    let mut case = decoded(rows, format!("{cols} columns, behind a product, the {what}"));
    let (r, x) = (plain(rows * cols, 6), inputs(rows, inner, 7));
    let [first, next] = [10, 11].map(|seed| around_one(cols, seed));
    let matrix: Vec<f32> = plain(inner * cols, 23).iter().map(|w| w / (inner as f32).sqrt()).collect();
    let [residual, input] = [&r, &x].map(|values| case.input(values));
    let [w, w_next] = [&first, &next].map(|weight| case.weight([1, 1, cols], weight));
    let w_matrix = case.weight([1, cols, inner], &matrix);
    let p = &mut case.program;
    let y = p.linear(input, &[w_matrix]).expect("the widths agree");
    p.norm_add(residual, y, w, scale, eps).expect("the widths agree");
    let normed_sum = p.rms_norm(residual, w_next, eps).expect("the widths agree");
    let out = if looks_at_norm { normed_sum } else { residual };
    let exact = |x: &[f32]| x.iter().map(|&x| (f64::from(x), 0.0)).collect::<Row>();
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (r, x) in r.chunks(cols).zip(x.chunks(inner)) {
        let row = sum(&exact(r), &normed(&product(&exact(x), &matrix), &first, eps));
        let half = |(x, error): &(f64, f64)| (x * f64::from(scale), error * f64::from(scale) + U * x.abs());
        let mut row = row.iter().map(half).collect::<Row>();
        if looks_at_norm {
            row = normed(&row, &next, eps);
        }
        want.extend(row.iter().map(|x| x.0));
        allowed.extend(row.iter().map(|x| x.1));
    }
    let case = case
        .expect(out, want, allowed)
        .mutant("the weight of the sum ignored", |case| case.change(2, |w| w.fill(1.0)))
        .mutant("the product forgotten", |case| case.change(1, |x| x.fill(0.0)));
    if looks_at_norm {
        return case.mutant("the weight of the norm ignored", |case| case.change(3, |w| w.fill(1.0)));
    }
    case.mutant("the scale forgotten", |case| op!(case, NormAdd).scale = 1.0)
}

/// A case of decoded rows. A step of one row has a plan of its own, which may fuse more.
fn decoded(rows: usize, shape: String) -> Case {
    let mut case = Case::new("norm_add", rows, shape);
    case.program.class = Class::Decode;
    if rows == 1 {
        (case.program.rows, case.program.picked) = (1, 1);
    }
    case
}

/// The end of a layer with per-layer inputs: a `norm_add`, a gate on its sum that opens an input, a projection, and a second
/// `norm_add`, whose sum is normed.
fn gated(rows: usize, cols: usize) -> Case {
    let (eps, scale, inner, start) = (1e-6f32, 0.4375f32, 64, 5);
    let mut case = decoded(rows, format!("{cols} columns, around a gate"));
    let (r, a, opened) = (plain(rows * cols, 6), inputs(rows, cols, 7), plain(rows * (inner + start), 22));
    let [first, last, next] = [10, 11, 12].map(|seed| around_one(cols, seed));
    let small = |seed, by: usize| plain(inner * cols, seed).into_iter().map(move |w| w / (by as f32).sqrt());
    let (gate, projection): (Vec<f32>, Vec<f32>) = (small(23, cols).collect(), small(24, inner).collect());
    let [residual, branch, up] = [&r, &a, &opened].map(|values| case.input(values));
    let [w, w_last, w_next] = [&first, &last, &next].map(|weight| case.weight([1, 1, cols], weight));
    let w_gate = case.weight([1, inner, cols], &gate);
    let w_projection = case.weight([1, cols, inner], &projection);
    let p = &mut case.program;
    p.norm_add(residual, branch, w, 1.0, eps).expect("the widths agree");
    let open = p.linear(residual, &[w_gate]).expect("the widths agree");
    let columns = (Columns { act: open, start: 0 }, Columns { act: up, start });
    let y = p.glu(columns.0, columns.1, inner).expect("the columns fit");
    let y = p.linear(y, &[w_projection]).expect("the widths agree");
    p.norm_add(residual, y, w_last, scale, eps).expect("the widths agree");
    let out = p.rms_norm(residual, w_next, eps).expect("the widths agree");
    let exact = |x: &[f32]| x.iter().map(|&x| (f64::from(x), 0.0)).collect::<Row>();
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for ((r, a), up) in r.chunks(cols).zip(a.chunks(cols)).zip(opened.chunks(inner + start)) {
        let row = sum(&exact(r), &normed(&exact(a), &first, eps));
        let open = product(&row, &gate).into_iter().zip(&up[start..]).map(|((g, error), &up)| {
            let up = f64::from(up);
            // The slope of gelu is below 1.13; the rest as in the cases of glu.
            (gelu(g) * up, 1.13 * error * up.abs() + 16.0 * U * (g * up).abs())
        });
        let y = product(&open.collect(), &projection);
        let row = sum(&row, &normed(&y, &last, eps));
        let half = |(x, error): &(f64, f64)| (x * f64::from(scale), error * f64::from(scale) + U * x.abs());
        let row = normed(&row.iter().map(half).collect::<Row>(), &next, eps);
        want.extend(row.iter().map(|x| x.0));
        allowed.extend(row.iter().map(|x| x.1));
    }
    case.expect(out, want, allowed)
        .mutant("the weight of the first sum ignored", |case| case.change(3, |w| w.fill(1.0)))
        .mutant("the weight of the last sum ignored", |case| case.change(4, |w| w.fill(1.0)))
        .mutant("the gate reads the branch", |case| {
            let branch = op!(case, NormAdd).y;
            op!(case, Linear).x = branch;
        })
        .mutant("columns of a neighbour", |case| op!(case, Glu).up.start -= 1)
}

/// Products of a row whose numbers are off already.
fn product(x: &Row, weight: &[f32]) -> Row {
    let of = |w: &[f32]| {
        let each =
            |term: fn(f64, (f64, f64)) -> f64| x.iter().zip(w).map(|(&x, &w)| term(w.into(), x)).sum::<f64>();
        let (size, carried) = (each(|w, x| (w * x.0).abs()), each(|w, x| w.abs() * x.1));
        (each(|w, x| w * x.0), sum_error(x.len()) * size + carried)
    };
    weight.chunks(x.len()).map(of).collect()
}

/// Numbers of a row, and how far each may be off.
type Row = Vec<(f64, f64)>;

/// The norm of a row whose numbers are off already.
fn normed(x: &[(f64, f64)], weight: &[f32], eps: f32) -> Row {
    let values: Vec<f64> = x.iter().map(|x| x.0).collect();
    let norm = inverse_rms(&values, f64::from(eps));
    let length = |of: fn(&(f64, f64)) -> f64| x.iter().map(|x| of(x).powi(2)).sum::<f64>().sqrt();
    // A row of zeros has no error.
    let off = length(|x| x.1) / length(|x| x.0).max(f64::MIN_POSITIVE) + sum_error(x.len());
    let one = |(&(x, error), &w): (&(f64, f64), &f32)| {
        let scale = norm * f64::from(w);
        (x * scale, (error * scale).abs() + (x * scale).abs() * off)
    };
    x.iter().zip(weight).map(one).collect()
}

fn sum(a: &[(f64, f64)], b: &[(f64, f64)]) -> Row {
    a.iter().zip(b).map(|(a, b)| (a.0 + b.0, a.1 + b.1 + 2.0 * U * (a.0.abs() + b.0.abs()))).collect()
}

/// Ops around a `norm_add` that a backend may take at once, and which of their results is looked at.
#[derive(Clone, Copy, Debug)]
enum Joined {
    /// Of two norms of the sum, the second.
    SecondNorm,
    /// The residual, where the branch is a sum of two normed ones.
    Branches,
    /// The norm of that residual.
    NormOfBranches,
}

impl Joined {
    const ALL: [Self; 3] = [Self::SecondNorm, Self::Branches, Self::NormOfBranches];

    fn case(self, rows: usize, cols: usize) -> Case {
        let eps = 1e-6f32;
        let mut case = Case::new("norm_add", rows, format!("{cols} columns, {self:?}"));
        let (r, a, b) = (plain(rows * cols, 6), inputs(rows, cols, 7), inputs(rows, cols, 9));
        let weights = [10, 11, 12, 13, 14].map(|seed| around_one(cols, seed));
        let [residual, x, y] = [&r, &a, &b].map(|values| case.input(values));
        let [w, wa, wb, first, second] = [0, 1, 2, 3, 4].map(|i| case.weight([1, 1, cols], &weights[i]));
        let p = &mut case.program;
        let out = if let Self::SecondNorm = self {
            p.norm_add(residual, x, w, 1.0, eps).expect("the widths agree");
            p.rms_norm(residual, first, eps).expect("the widths agree");
            p.rms_norm(residual, second, eps).expect("the widths agree")
        } else {
            let x = p.rms_norm(x, wa, eps).expect("the widths agree");
            let y = p.rms_norm(y, wb, eps).expect("the widths agree");
            p.add(x, y).expect("the widths agree");
            p.norm_add(residual, x, w, 1.0, eps).expect("the widths agree");
            let next = p.rms_norm(residual, second, eps).expect("the widths agree");
            if let Self::Branches = self { residual } else { next }
        };
        let exact = |x: &[f32]| x.iter().map(|&x| (f64::from(x), 0.0)).collect::<Row>();
        let (mut want, mut allowed) = (Vec::new(), Vec::new());
        for ((r, a), b) in r.chunks(cols).zip(a.chunks(cols)).zip(b.chunks(cols)) {
            let mut branch = exact(a);
            if !matches!(self, Self::SecondNorm) {
                branch = sum(&normed(&branch, &weights[1], eps), &normed(&exact(b), &weights[2], eps));
            }
            let mut row = sum(&exact(r), &normed(&branch, &weights[0], eps));
            if !matches!(self, Self::Branches) {
                row = normed(&row, &weights[4], eps);
            }
            want.extend(row.iter().map(|x| x.0));
            allowed.extend(row.iter().map(|x| x.1));
        }
        let case = case
            .expect(out, want, allowed)
            .mutant("the weight of the sum ignored", |case| case.change(3, |w| w.fill(1.0)));
        if let Self::SecondNorm = self {
            return case
                .mutant("the weight of the second norm ignored", |case| case.change(7, |w| w.fill(1.0)));
        }
        case.mutant("a branch without its weight", |case| case.change(4, |w| w.fill(1.0)))
            .mutant("the other branch without its weight", |case| case.change(5, |w| w.fill(1.0)))
    }
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
