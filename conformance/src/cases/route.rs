//! Cases of `route`.

use gemma4_core::program::Class;

use super::{Case, U, around_one, inverse_rms, plain, sum_error, wide};

/// Which output is compared.
#[derive(Clone, Copy, PartialEq)]
enum Out {
    Experts,
    Weights,
}

pub(super) fn cases() -> Vec<Case> {
    // More experts than lanes, rows and experts one past a tile.
    let shapes = [(1, 4, 32, 4), (3, 16, 96, 4), (5, 128, 2816, 8), (2, 301, 40, 7), (9, 13, 257, 5)];
    let outs = [Out::Experts, Out::Weights];
    let classes = [Class::Prefill, Class::Decode];
    let ways: Vec<_> = classes.into_iter().flat_map(|class| outs.map(|out| (class, out))).collect();
    let of = |shape| ways.iter().map(move |&(class, out)| case(shape, class, out));
    shapes.into_iter().flat_map(of).chain(outs.map(ties)).collect()
}

fn case((rows, experts, cols, top_k): (usize, usize, usize, usize), class: Class, which: Out) -> Case {
    let mut case =
        Case::new("route", rows, format!("{top_k} of {experts} experts, {cols} columns, {class:?}"));
    case.program.class = class;
    let x = plain(rows * cols, 18);
    let (scale, proj, per_expert) =
        (around_one(cols, 19), plain(experts * cols, 20), around_one(experts, 21));
    let input = case.input(&x);
    let weights = [
        case.weight([1, 1, cols], &scale),
        case.weight([1, experts, cols], &proj),
        case.weight([1, 1, experts], &per_expert),
    ];
    let (chosen, shares) = case.program.route(input, weights, top_k, 1e-6).expect("the widths agree");
    let (mut want_experts, mut want_shares, mut allowed) = (Vec::new(), Vec::new(), Vec::new());
    for x in wide(&x).chunks(cols) {
        let norm = inverse_rms(x, f64::from(1e-6f32)) / (cols as f64).sqrt();
        let z: Vec<f64> = x.iter().zip(&scale).map(|(x, &s)| x * norm * f64::from(s)).collect();
        let terms = |e: usize| {
            let proj = &proj[e * cols..(e + 1) * cols];
            z.iter().zip(proj).map(|(z, &w)| z * f64::from(w)).collect::<Vec<_>>()
        };
        let logits: Vec<f64> = (0..experts).map(|e| terms(e).iter().sum()).collect();
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.truncate(top_k);
        let total: f64 = order.iter().map(|&e| logits[e].exp()).sum();
        for &e in &order {
            want_experts.push(e as f64);
            let share = logits[e].exp() / total * f64::from(per_expert[e]);
            want_shares.push(share);
            // Each logit errs by its sum and by the norm before it; shares err by twice the worst of them.
            let worst = order.iter().map(|&e| terms(e).iter().map(|t| t.abs()).sum::<f64>());
            let worst = worst.fold(0.0, f64::max) * 2.0 * sum_error(cols);
            allowed.push(share.abs() * (2.0 * worst + 2.0 * sum_error(experts)));
        }
    }
    let case = match which {
        Out::Experts => {
            let exact = vec![0.0; want_experts.len()];
            case.expect(chosen, want_experts, exact)
        }
        Out::Weights => case.expect(shares, want_shares, allowed),
    };
    case.mutant("scale ignored", |case| case.change(1, |s| s.fill(1.0)))
        .mutant("not divided by sqrt(cols)", move |case| {
            let root = (cols as f32).sqrt();
            case.change(1, |s| s.iter_mut().for_each(|s| *s *= root));
        })
        .mutant("per-expert scale ignored", |case| case.change(3, |s| s.fill(1.0)))
        .mutant("experts shifted by one", move |case| case.change(2, |w| w.rotate_right(cols)))
        .mutant("the smallest logits", |case| case.change(1, |s| s.iter_mut().for_each(|s| *s = -*s)))
}

/// All logits equal: the lower index comes first, every share is the same, and the per-expert scale comes after the
/// renormalisation.
fn ties(which: Out) -> Case {
    let (experts, cols, top_k) = (16, 32, 4);
    let mut case = Case::new("route", 2, "equal logits");
    let input = case.input(&plain(2 * cols, 22));
    let per_expert = around_one(experts, 23);
    let weights = [
        case.weight([1, 1, cols], &vec![1.0; cols]),
        case.weight([1, experts, cols], &vec![0.5; experts * cols]),
        case.weight([1, 1, experts], &per_expert),
    ];
    let (chosen, shares) = case.program.route(input, weights, top_k, 1e-6).expect("the widths agree");
    let order: Vec<usize> = (0..2).flat_map(|_| 0..top_k).collect();
    match which {
        Out::Experts => {
            let want = order.iter().map(|&e| e as f64).collect();
            case.expect(chosen, want, vec![0.0; order.len()]).mutant("the higher index first", |case| {
                // Logits that rise with the index by next to nothing, whatever their sign.
                case.change(0, |x| x.iter_mut().for_each(|x| *x = x.abs()));
                case.change(2, |w| {
                    w.chunks_mut(32).zip(0u8..).for_each(|(w, e)| w.fill(0.5 + f32::from(e) * 1e-6));
                });
            })
        }
        Out::Weights => {
            let want: Vec<f64> = order.iter().map(|&e| 0.25 * f64::from(per_expert[e])).collect();
            let allowed = want.iter().map(|want| 16.0 * U * want.abs()).collect();
            case.expect(shares, want, allowed).mutant(
                "per-expert scale before renormalisation",
                move |case| {
                    let sum: f32 = per_expert[..top_k].iter().sum();
                    case.change(3, |s| s.iter_mut().for_each(|s| *s *= 4.0 / sum));
                },
            )
        }
    }
}
