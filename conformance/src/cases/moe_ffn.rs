//! Cases of `moe_ffn`.

use gemma4_core::ops::moe_ffn::GateUp;

use super::{Case, U, around_one, gelu, inputs, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    let shapes = [(1, 4, 32, 32, 2), (4, 8, 96, 40, 3), (2, 5, 257, 33, 5)];
    shapes.into_iter().flat_map(|shape| [true, false].map(|fused| case(shape, fused))).collect()
}

fn case((rows, experts, cols, ffn, top_k): (usize, usize, usize, usize, usize), fused: bool) -> Case {
    let form = if fused { "fused" } else { "split" };
    let mut case =
        Case::new("moe_ffn", rows, format!("{top_k} of {experts} experts, {cols} by {ffn}, {form}"));
    let x = inputs(rows, cols, 24);
    let input = case.input(&x);
    // The router sees an input of its own, whose row r prefers the experts in an order that is read off below.
    let order = move |r: usize| -> Vec<usize> { (0..experts).map(|k| (r * 3 + k * (experts - 1)) % experts).collect() };
    let mut wanted = vec![0.0f32; rows * experts];
    for r in 0..rows {
        for (rank, &e) in order(r).iter().enumerate() {
            wanted[r * experts + e] = (experts - rank) as f32;
        }
    }
    let preference = case.input(&wanted);
    let mut identity = vec![0.0f32; experts * experts];
    identity.iter_mut().step_by(experts + 1).for_each(|one| *one = 1.0);
    let per_expert = around_one(experts, 25);
    let router = [
        case.weight([1, 1, experts], &vec![1.0; experts]),
        case.weight([1, experts, experts], &identity),
        case.weight([1, 1, experts], &per_expert),
    ];
    let chosen = case.program.route(preference, router, top_k, 1e-6).expect("the widths agree");

    let scale = |n: usize| move |w: f32| w / (n as f32).sqrt();
    let gate: Vec<f32> = plain(experts * ffn * cols, 26).into_iter().map(scale(cols)).collect();
    let up: Vec<f32> = plain(experts * ffn * cols, 27).into_iter().map(scale(cols)).collect();
    let down: Vec<f32> = plain(experts * cols * ffn, 28).into_iter().map(scale(ffn)).collect();
    let gate_up = if fused {
        let pairs = gate.chunks(ffn * cols).zip(up.chunks(ffn * cols));
        let both: Vec<f32> = pairs.flat_map(|(gate, up)| [gate, up].concat()).collect();
        GateUp::Fused(case.weight([experts, 2 * ffn, cols], &both))
    } else {
        let gate = case.weight([experts, ffn, cols], &gate);
        GateUp::Split { gate, up: case.weight([experts, ffn, cols], &up) }
    };
    let d = case.weight([experts, cols, ffn], &down);
    let out = case.program.moe_ffn(input, chosen, gate_up, d).expect("the widths agree");

    let (gate, up, down) = (wide(&gate), wide(&up), wide(&down));
    let (mut want, mut allowed) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
    for (r, x) in wide(&x).chunks(cols).enumerate() {
        let wanted = &wide(&wanted[r * experts..(r + 1) * experts]);
        let norm = super::inverse_rms(wanted, f64::from(1e-6f32)) / (experts as f64).sqrt();
        let order = &order(r)[..top_k];
        let total: f64 = order.iter().map(|&e| (wanted[e] * norm).exp()).sum();
        for &e in order {
            let share = (wanted[e] * norm).exp() / total * f64::from(per_expert[e]);
            // A value and what it errs by at most.
            let dot = |w: &[f64], x: &[(f64, f64)]| {
                let sum: f64 = w.iter().zip(x).map(|(w, x)| w * x.0).sum();
                let size: f64 = w.iter().zip(x).map(|(w, x)| (w * x.0).abs()).sum();
                let carried: f64 = w.iter().zip(x).map(|(w, x)| w.abs() * x.1).sum();
                (sum, sum_error(x.len()) * size + carried)
            };
            let x: Vec<(f64, f64)> = x.iter().map(|&x| (x, 0.0)).collect();
            let hidden: Vec<(f64, f64)> = (0..ffn)
                .map(|f| {
                    let row = (e * ffn + f) * cols..(e * ffn + f + 1) * cols;
                    let ((g, eg), (v, ev)) = (dot(&gate[row.clone()], &x), dot(&up[row], &x));
                    // gelu' is at most 1.13.
                    (gelu(g) * v, 1.13 * eg * v.abs() + g.abs() * ev + 16.0 * U * (g * v).abs())
                })
                .collect();
            for c in 0..cols {
                let row = (e * cols + c) * ffn..(e * cols + c + 1) * ffn;
                let (y, error) = dot(&down[row], &hidden);
                want[r * cols + c] += share * y;
                // Logits of the router are at most `experts`, so shares err by a few dozen u.
                allowed[r * cols + c] += share.abs() * (error + (64.0 + 2.0 * experts as f64) * U * y.abs());
            }
        }
    }
    case.expect(out, want, allowed)
        .mutant("weights ignored", |case| case.change(4, |s| s.fill(1.0)))
        .mutant("experts shifted by one", move |case| {
            let last = case.tensors.len() - 1;
            case.change(last, |d| d.rotate_right(cols * ffn));
        })
        .mutant("gate and up swapped", move |case| match &mut op!(case, MoeFfn).gate_up {
            GateUp::Split { gate, up } => std::mem::swap(gate, up),
            GateUp::Fused(_) => {
                case.change(5, |both| both.chunks_mut(2 * ffn * cols).for_each(|w| w.rotate_right(ffn * cols)));
            }
        })
        .mutant("an expert too few", move |case| {
            // The last chosen expert of every row adds nothing.
            let least: Vec<usize> = (0..rows).map(|r| order(r)[top_k - 1]).collect();
            let last = case.tensors.len() - 1;
            case.change(last, |d| least.iter().for_each(|e| d[e * cols * ffn..(e + 1) * cols * ffn].fill(0.0)));
        })
}
