//! Cases of `moe_ffn`.

use gemma4_core::ops::moe_ffn::GateUp;
use gemma4_core::program::{Class, Weight};
use gemma4_core::tensor::DType;

use super::lossy::{Losses, no_losses};
use super::{Case, U, around_one, gelu, inputs, later, op, plain, sum_error, together, wide};

/// What a case is about.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    experts: usize,
    cols: usize,
    ffn: usize,
    top_k: usize,
    /// Types of the first matrices and of `down`.
    types: [DType; 2],
    /// By how much the experts of a row differ from those of the one before.
    step: usize,
    /// Whether a product lies between the choice and the experts, as in models with a dense branch.
    dense: bool,
}

/// Where products lose what `losses` says; see [`exact`].
pub(super) fn cases(losses: Losses) -> Vec<Case> {
    let plain = |(rows, experts, cols, ffn, top_k)| Shape {
        rows,
        experts,
        cols,
        ffn,
        top_k,
        types: [DType::F32; 2],
        step: 3,
        dense: false,
    };
    // Rows, pairs of an expert, outputs and columns around the sizes of tiles; many experts, most of them idle.
    let shapes = [
        (1, 4, 32, 32, 2),
        (4, 8, 96, 40, 3),
        (2, 5, 257, 33, 5),
        (17, 128, 32, 32, 8),
        (17, 3, 129, 65, 2),
        (65, 5, 48, 24, 3),
    ]
    .map(plain);
    let crowd = [Shape { step: 0, ..plain((33, 4, 40, 130, 2)) }];
    let beside = [(1, 40, 64, 32, 4), (9, 128, 32, 32, 8)].map(|size| Shape { dense: true, ..plain(size) });
    let typed =
        [[DType::Q4_K, DType::Q8_0], [DType::Q6_K, DType::Q5_0], [DType::Q8_0, DType::Q6_K]].map(|types| {
            Shape { types, ..plain((5, 4, 256, if types[1] == DType::Q6_K { 256 } else { 64 }, 3)) }
        });
    let one = [Shape { types: [DType::Q4_K, DType::Q6_K], ..plain((1, 4, 512, 256, 3)) }];
    let shapes: Vec<Shape> = shapes.into_iter().chain(crowd).chain(beside).chain(typed).chain(one).collect();
    let forms = shapes.into_iter().flat_map(|shape| [true, false].map(|fused| (shape, fused)));
    together(forms.flat_map(|(shape, fused)| {
        [Class::Prefill, Class::Decode].map(|class| {
            later(move || {
                let case = case(shape, fused, class, losses);
                if shape.rows == 1 { case.full() } else { case }
            })
        })
    }))
}

/// A weight, and its values.
fn matrices(case: &mut Case, dtype: DType, shape: [usize; 3], seed: u64) -> (Weight, Vec<f64>) {
    let [experts, rows, cols] = shape;
    let values = plain(experts * rows * cols, seed);
    if dtype == DType::F32 {
        let values: Vec<f32> = values.into_iter().map(|w| w / (cols as f32).sqrt()).collect();
        return (case.weight(shape, &values), wide(&values));
    }
    let bytes = experts * rows * dtype.row_bytes(cols).expect("whole blocks");
    let mut data: Vec<u8> = values.iter().cycle().take(bytes).map(|v| v.to_bits().to_le_bytes()[0]).collect();
    for block in data.chunks_exact_mut(dtype.block_bytes()) {
        // Halves of 0.001 for scales.
        let scales = match dtype {
            DType::Q4_K => 0..4,
            DType::Q6_K => 208..210,
            _ => 0..2,
        };
        block[scales].chunks_exact_mut(2).for_each(|half| half.copy_from_slice(&[0x10, 0x14]));
    }
    let mut decoded = vec![0.0f32; values.len()];
    gemma4_core::quant::decode(dtype, &data, &mut decoded);
    (case.raw_weight(dtype, shape, data), wide(&decoded))
}

/// Within the bounds of `f32`.
pub(super) fn exact() -> Vec<Case> {
    cases(no_losses)
}

fn case(shape: Shape, fused: bool, class: Class, losses: Losses) -> Case {
    let Shape { rows, experts, cols, ffn, top_k, types, step, dense } = shape;
    let form = if fused { "fused" } else { "split" };
    let behind = if dense { ", behind a product" } else { "" };
    let name = format!("{top_k} of {experts} experts, {cols} by {ffn}, {types:?}, {form}, {class:?}{behind}");
    let mut case = Case::new("moe_ffn", rows, name);
    case.program.class = class;
    let x = inputs(rows, cols, 24);
    let input = case.input(&x);
    // The router sees an input of its own, whose row r prefers the experts in an order that is read off below.
    let order = move |r: usize| -> Vec<usize> {
        (0..experts).map(|k| (r * step + k * (experts - 1)) % experts).collect()
    };
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
    if dense {
        case.program.linear(preference, &[router[1]]).expect("the widths agree");
    }

    let (gate, up, gate_up);
    if fused {
        let (weight, both) = matrices(&mut case, types[0], [experts, 2 * ffn, cols], 26);
        let half =
            |i: usize| both.chunks(ffn * cols).skip(i).step_by(2).flatten().copied().collect::<Vec<_>>();
        (gate, up) = (half(0), half(1));
        gate_up = GateUp::Fused(weight);
    } else {
        let (first, second);
        (first, gate) = matrices(&mut case, types[0], [experts, ffn, cols], 26);
        (second, up) = matrices(&mut case, types[0], [experts, ffn, cols], 27);
        gate_up = GateUp::Split { gate: first, up: second };
    }
    let (d, down) = matrices(&mut case, types[1], [experts, cols, ffn], 28);
    let out = case.program.moe_ffn(input, chosen, gate_up, d).expect("the widths agree");

    let (mut want, mut allowed) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
    for (r, x) in wide(&x).chunks(cols).enumerate() {
        let wanted = &wide(&wanted[r * experts..(r + 1) * experts]);
        let norm = super::inverse_rms(wanted, f64::from(1e-6f32)) / (experts as f64).sqrt();
        let order = &order(r)[..top_k];
        let total: f64 = order.iter().map(|&e| (wanted[e] * norm).exp()).sum();
        for &e in order {
            let share = (wanted[e] * norm).exp() / total * f64::from(per_expert[e]);
            // A value and what it errs by at most.
            let dot = |w: &[f64], x: &[(f64, f64)], dtype: DType| {
                let sum: f64 = w.iter().zip(x).map(|(w, x)| w * x.0).sum();
                let size: f64 = w.iter().zip(x).map(|(w, x)| (w * x.0).abs()).sum();
                let carried: f64 = w.iter().zip(x).map(|(w, x)| w.abs() * x.1).sum();
                let most: Vec<f64> = x.iter().map(|x| x.0.abs() + x.1).collect();
                (sum, sum_error(x.len()) * size + carried + losses(class, &most, w, dtype))
            };
            let x: Vec<(f64, f64)> = x.iter().map(|&x| (x, 0.0)).collect();
            let hidden: Vec<(f64, f64)> = (0..ffn)
                .map(|f| {
                    let row = (e * ffn + f) * cols..(e * ffn + f + 1) * cols;
                    let ((g, eg), (v, ev)) =
                        (dot(&gate[row.clone()], &x, types[0]), dot(&up[row], &x, types[0]));
                    // gelu' is at most 1.13.
                    (gelu(g) * v, 1.13 * eg * v.abs() + g.abs() * ev + 16.0 * U * (g * v).abs())
                })
                .collect();
            for c in 0..cols {
                let row = (e * cols + c) * ffn..(e * cols + c + 1) * ffn;
                let (y, error) = dot(&down[row], &hidden, types[1]);
                want[r * cols + c] += share * y;
                // Logits of the router are at most `experts`, so shares err by a few dozen u.
                allowed[r * cols + c] += share.abs() * (error + (64.0 + 2.0 * experts as f64) * U * y.abs());
            }
        }
    }
    // Words of an expert's matrices.
    let words = move |case: &Case, weight: usize| case.tensors[weight].data.len() / 4 / experts;
    case.expect(out, want, allowed)
        .mutant("weights ignored", |case| case.change(4, |s| s.fill(1.0)))
        .mutant("experts shifted by one", move |case| {
            let last = case.tensors.len() - 1;
            let words = words(case, last);
            case.change(last, |d| d.rotate_right(words));
        })
        .mutant("gate and up swapped", move |case| match &mut op!(case, MoeFfn).gate_up {
            GateUp::Split { gate, up } => std::mem::swap(gate, up),
            GateUp::Fused(_) => {
                let words = words(case, 5);
                case.change(5, |both| both.chunks_mut(words).for_each(|w| w.rotate_right(words / 2)));
            }
        })
        .mutant("an expert too few", move |case| {
            // The last chosen expert of every row adds nothing.
            let least: Vec<usize> = (0..rows).map(|r| order(r)[top_k - 1]).collect();
            let last = case.tensors.len() - 1;
            let words = words(case, last);
            case.change(last, |d| {
                for e in &least {
                    d[e * words..(e + 1) * words].fill(0.0);
                }
            });
        })
}
