//! What one op may err by, given its inputs.
//!
//! Each bound is that of the op's cases, for arithmetic in `f32`, taken for the inputs at hand; where a case knows a
//! value that costs a second computation of the op, here stands what bounds it: the wanted output, or the length of a
//! vector. To all of them comes what the first backend rounded ([`U`] of the value), and what a device loses that
//! flushes numbers below the smallest normal one.

use std::collections::HashMap;

use gemma4_core::backend::Row;
use gemma4_core::kv_type::{KvType, tq3};
use gemma4_core::model::gemma4::Gemma4;
use gemma4_core::ops::Op;
use gemma4_core::ops::attention::{Attention, Mask};
use gemma4_core::ops::moe_ffn::{GateUp, MoeFfn};
use gemma4_core::ops::route::Route;
use gemma4_core::program::{Act, Program, State, StateSpec, Weight};
use gemma4_core::quant;
use rayon::prelude::*;

use super::side::Values;
use crate::Failure;
use crate::cases::{U, gelu, inverse_rms, sum_error};

pub(super) struct Bounds<'a> {
    pub(super) program: &'a Program,
    pub(super) model: &'a Gemma4,
    /// Inputs, before the op changes them.
    pub(super) acts: &'a HashMap<Act, Values>,
    pub(super) rows: &'a [Row],
    pub(super) routed: &'a HashMap<Act, (Route, Vec<f32>, Vec<f64>)>,
}

/// A value and what it errs by at most.
type Uncertain = (f64, f64);

impl Bounds<'_> {
    /// What each element of each output may differ by, in the order of [`Op::writes`]. `keys` reads a pool.
    pub(super) fn of(
        &self,
        op: &Op,
        want: &[Values],
        keys: impl Fn(State) -> Result<Vec<f32>, Failure>,
    ) -> Result<Vec<Vec<f64>>, Failure> {
        let exact = |want: &Values| vec![0.0; want.wide().len()];
        // Copies and choices are right or wrong.
        if matches!(op, Op::GatherRows(_) | Op::Sample(_) | Op::RecallRows(_)) {
            return Ok(want.iter().map(exact).collect());
        }
        if let Op::Route(op) = op {
            let (experts, weights) = self.route(op, &want[0].wide());
            return Ok(vec![experts, rounded(&want[1].wide(), weights.into_iter())]);
        }
        // What an op stores is seen when another reads it.
        let Some(out) = want.first().map(Values::wide) else { return Ok(Vec::new()) };
        let cols = self.program.cols(op.writes()[0]);
        let size = |factor: f64| out.iter().map(|want| factor * want.abs()).collect::<Vec<_>>();
        let allowed = match op {
            Op::Embed(_) => size(2.0 * U),
            Op::Add(_) => size(U),
            Op::Softcap(_) => size(16.0 * U),
            Op::RmsNorm(_) => size(sum_error(cols)),
            Op::NormAdd(op) => {
                let scale = f64::from(op.scale.abs());
                let pairs = out.iter().zip(self.act(op.residual));
                // The branch is what the scaled sum has more than the residual.
                let allowed = |(want, r): (&f64, f64)| {
                    let branch = want.abs() / scale + r.abs();
                    scale * (sum_error(cols) * branch + 2.0 * U * (r.abs() + branch))
                };
                pairs.map(allowed).collect()
            }
            Op::Glu(op) => {
                let (gate, up) = (self.act(op.gate.act), self.act(op.up.act));
                let widths = [op.gate.act, op.up.act].map(|act| self.program.cols(act));
                let at = |i: usize| {
                    let (r, c) = (i / cols, i % cols);
                    gate[r * widths[0] + op.gate.start + c] * up[r * widths[1] + op.up.start + c]
                };
                (0..out.len()).map(|i| 16.0 * U * at(i).abs()).collect()
            }
            Op::Linear(op) => {
                let (x, width) = (self.act(op.x), self.program.cols(op.x));
                let outputs = op.weights.iter().flat_map(|&weight| {
                    (0..self.program.weight(weight).rows).map(move |output| (weight, output))
                });
                let of_rows = |(weight, output)| {
                    let w = self.weight(weight, 0, output);
                    let size = |x: &[f64]| x.iter().zip(&w).map(|(x, w)| (x * w).abs()).sum::<f64>();
                    x.chunks(width).map(|x| sum_error(width) * size(x)).collect::<Vec<_>>()
                };
                let of_outputs: Vec<Vec<f64>> =
                    outputs.collect::<Vec<_>>().into_par_iter().map(of_rows).collect();
                (0..out.len()).map(|i| of_outputs[i % cols][i / cols]).collect()
            }
            Op::PleInputs(op) => {
                let ple = self.program.weight(op.norm).cols;
                let tokens = self.rows.iter().map(|row| self.weight(op.table, 0, row.token as usize));
                let table: Vec<f64> = tokens.flatten().map(|a| a * (ple as f64).sqrt()).collect();
                // The normed context is what the sum has more than the table.
                let allowed = |(want, a): (&f64, &f64)| {
                    let b = 2f64.sqrt() * want.abs() + a.abs();
                    sum_error(ple) * b + 4.0 * U * (a.abs() + b)
                };
                out.iter().zip(&table).map(allowed).collect()
            }
            Op::AttnPrepare(op) => turned(&out, op.heads.head_dim),
            Op::Attention(op) => self.attention(op, &keys(op.k)?, &keys(op.v)?),
            Op::MoeFfn(op) => self.moe_ffn(op),
            Op::CentroidHead(op) => {
                let x = self.act(op.x);
                let width = self.program.cols(op.x);
                let table: f64 = (0..self.program.weight(op.table).rows)
                    .map(|token| self.weight(op.table, 0, token).iter().fold(0.0f64, |a, b| a.max(b.abs())))
                    .fold(0.0, f64::max);
                let sizes = x.chunks(width).flat_map(|x| {
                    let size: f64 = x.iter().map(|x| x.abs() * table).sum();
                    vec![sum_error(width) * size; cols]
                });
                sizes.collect()
            }
            Op::GatherRows(_) | Op::Sample(_) | Op::Route(_) | Op::RecallRows(_) => {
                unreachable!("answered above")
            }
            Op::KeepRows(_) | Op::KvAppend(_) => unreachable!("they write no activation"),
        };
        Ok(vec![rounded(&out, allowed.into_iter())])
    }

    fn act(&self, act: Act) -> Vec<f64> {
        self.acts[&act].wide()
    }

    /// A row of a weight.
    fn weight(&self, weight: Weight, expert: usize, row: usize) -> Vec<f64> {
        let tensor = &self.model.tensors[weight.index()];
        let mut values = vec![0.0f32; tensor.cols];
        quant::decode(tensor.dtype, tensor.row(expert, row), &mut values);
        values.into_iter().map(f64::from).collect()
    }

    /// Chosen experts are right unless the next best is as near as logits err; shares err by twice the worst logit.
    fn route(&self, op: &Route, chosen: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (cols, top_k) = (self.program.cols(op.x), self.program.cols(op.experts));
        let experts = self.program.weight(op.proj).rows;
        let scale = self.weight(op.scale, 0, 0);
        let (mut choice, mut shares) = (Vec::new(), Vec::new());
        for (x, chosen) in self.act(op.x).chunks(cols).zip(chosen.chunks(top_k)) {
            let norm = inverse_rms(x, op.eps.into()) / (cols as f64).sqrt();
            let z: Vec<f64> = x.iter().zip(&scale).map(|(x, s)| x * norm * s).collect();
            let logit = |e: usize| -> Uncertain {
                let terms: Vec<f64> = z.iter().zip(self.weight(op.proj, 0, e)).map(|(z, w)| z * w).collect();
                (terms.iter().sum(), 2.0 * sum_error(cols) * terms.iter().map(|t| t.abs()).sum::<f64>())
            };
            let logits: Vec<Uncertain> = (0..experts).into_par_iter().map(logit).collect();
            let worst = logits.iter().map(|logit| logit.1).fold(0.0, f64::max);
            let mut order: Vec<f64> = logits.iter().map(|logit| logit.0).collect();
            order.sort_by(|a, b| b.total_cmp(a));
            let top = &order[..(top_k + 1).min(experts)];
            let tie = top.windows(2).any(|pair| pair[0] - pair[1] <= 2.0 * worst);
            let total: f64 = order[..top_k].iter().map(|l| (l - order[0]).exp()).sum();
            for &e in chosen {
                choice.push(if tie { f64::INFINITY } else { 0.0 });
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a chosen expert"
                )]
                let e = e as usize;
                let share = (logits[e].0 - order[0]).exp() / total * self.weight(op.expert_scale, 0, 0)[e];
                let error = share.abs() * (2.0 * worst + 2.0 * sum_error(experts));
                shares.push(if tie { f64::INFINITY } else { error });
            }
        }
        (choice, shares)
    }

    /// Products with carried errors, as in the cases.
    fn moe_ffn(&self, op: &MoeFfn) -> Vec<f64> {
        let (cols, top_k) = (self.program.cols(op.x), self.program.cols(op.experts));
        let ffn = self.program.weight(op.down).cols;
        let dot = |w: &[f64], x: &[Uncertain]| -> Uncertain {
            let sum =
                |term: fn(f64, Uncertain) -> f64| w.iter().zip(x).map(|(&w, &x)| term(w, x)).sum::<f64>();
            let (size, carried) = (sum(|w, x| (w * x.0).abs()), sum(|w, x| w.abs() * x.1));
            (sum(|w, x| w * x.0), sum_error(x.len()) * size + carried)
        };
        let (experts, shares) = (self.acts[&op.experts].wide(), self.act(op.weights));
        let errors = &self.routed[&op.experts].2;
        let x = self.act(op.x);
        let mut allowed = vec![0.0; x.len()];
        for (pair, (&e, (&share, &wrong))) in experts.iter().zip(shares.iter().zip(errors)).enumerate() {
            let r = pair / top_k;
            if wrong.is_infinite() {
                allowed[r * cols..(r + 1) * cols].fill(f64::INFINITY);
                continue;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a chosen expert")]
            let e = e as usize;
            let x: Vec<Uncertain> = x[r * cols..(r + 1) * cols].iter().map(|&x| (x, 0.0)).collect();
            let (gate, up, up_start) = match op.gate_up {
                GateUp::Fused(both) => (both, both, ffn),
                GateUp::Split { gate, up } => (gate, up, 0),
            };
            let hidden: Vec<Uncertain> = (0..ffn)
                .into_par_iter()
                .map(|f| {
                    let (g, eg) = dot(&self.weight(gate, e, f), &x);
                    let (v, ev) = dot(&self.weight(up, e, up_start + f), &x);
                    // gelu' is at most 1.13.
                    (gelu(g) * v, 1.13 * eg * v.abs() + g.abs() * ev + 16.0 * U * (g * v).abs())
                })
                .collect();
            allowed[r * cols..(r + 1) * cols].par_iter_mut().enumerate().for_each(|(c, allowed)| {
                let (y, error) = dot(&self.weight(op.down, e, c), &hidden);
                *allowed += share.abs() * (error + 4.0 * top_k as f64 * U * y.abs()) + wrong * y.abs();
            });
        }
        allowed
    }

    /// A logit errs by its sum, twice as much where the query is turned; a share by twice that and by the sum of
    /// shares; an output by that and its own sum. No logit's terms are larger than the lengths of query and key, and
    /// no output than the largest value seen; turning back mixes the values of a group, none longer than the group.
    fn attention(&self, op: &Attention, keys: &[f32], values: &[f32]) -> Vec<f64> {
        let (dim, kv_heads) = (op.heads.head_dim, op.heads.kv_heads);
        let rotated = self.program.state(op.v).kv_type.rotated();
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let largest: Vec<Vec<f64>> = values
            .chunks(dim)
            .map(|v| {
                let v = wide(v);
                if rotated {
                    v.chunks(tq3::GROUP).flat_map(|group| vec![length(group); group.len()]).collect()
                } else {
                    v.iter().map(|v| v.abs()).collect()
                }
            })
            .collect();
        let lengths: Vec<f64> = keys.chunks(dim).map(|k| length(&wide(k))).collect();
        let mut allowed = Vec::new();
        for (row, q) in self.rows.iter().zip(self.act(op.q).chunks(op.heads.heads * dim)) {
            let last = row.position as usize;
            let first = match op.mask {
                Mask::Causal => 0,
                Mask::Window(n) => (last + 1).saturating_sub(n),
            };
            for (head, q) in q.chunks(dim).enumerate() {
                let head = head / (op.heads.heads / kv_heads);
                let seen = || (first..=last).map(|j| j * kv_heads + head);
                let size = length(q) * seen().map(|at| lengths[at]).fold(0.0, f64::max);
                let sum = sum_error(last + 1 - first);
                let share = 4.0 * sum_error(dim) * size + 2.0 * sum;
                let value = |d: usize| seen().map(|at| largest[at][d]).fold(0.0, f64::max);
                allowed.extend((0..dim).map(|d| (share + sum) * value(d)));
            }
        }
        allowed
    }
}

/// Adds what every comparison allows: the rounding of the wanted value, and what is flushed.
fn rounded(want: &[f64], allowed: impl Iterator<Item = f64>) -> Vec<f64> {
    want.iter()
        .zip(allowed)
        .map(|(want, allowed)| allowed + U * want.abs() + f64::from(f32::MIN_POSITIVE))
        .collect()
}

/// Heads after their norm and their turn: the norm's error, and four roundings of sine, cosine, products and their
/// sum, of both halves of a pair, whose length the turn keeps.
fn turned(heads: &[f64], dim: usize) -> Vec<f64> {
    let head = |x: &[f64]| {
        let pair = |i: usize| 2f64.sqrt() * x[i % (dim / 2)].hypot(x[i % (dim / 2) + dim / 2]);
        (0..dim).map(|i| 2.0 * sum_error(dim) * pair(i)).collect::<Vec<_>>()
    };
    heads.chunks(dim).flat_map(head).collect()
}

/// What entries of a pool may differ by: what they erred before they were encoded, and one step of the type, for a
/// value near the border between two steps.
pub(super) fn stored(spec: &StateSpec, want: &[f32]) -> Vec<f64> {
    let want: Vec<f64> = want.iter().map(|&want| want.into()).collect();
    let exact = turned(&want, spec.head_dim);
    let largest = |x: &[f64]| x.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let steps = |block: usize, step: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
        want.chunks(block).flat_map(|x| vec![step(x); x.len()]).collect()
    };
    let step = match spec.kv_type {
        KvType::F32 => vec![0.0; want.len()],
        KvType::F16 => want.iter().map(|want| want.abs() / 1024.0 + 2f64.powi(-24)).collect(),
        // A step is the largest value over 127, or over 8, and itself rounded to f16.
        KvType::Q8_0 => steps(32, &|x| largest(x) * (1.0 / 127.0 + 1.0 / 1024.0)),
        KvType::Q4_0 => steps(32, &|x| largest(x) * (1.0 / 8.0 + 1.0 / 512.0)),
        KvType::TQ3_0 => {
            let gap = tq3::CENTROIDS.windows(2).map(|pair| f64::from(pair[1] - pair[0])).fold(0.0, f64::max);
            // The turn before encoding mixes the errors of a group; another index changes the norm too, by less
            // than a quarter of that.
            steps(tq3::GROUP, &|x| length(x) * (1.25 * gap + 1.0 / 512.0 + 4.0 * sum_error(spec.head_dim)))
        }
    };
    rounded(&want, exact.iter().zip(step).map(|(exact, step)| exact + step))
}
