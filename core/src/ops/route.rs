//! Op `route`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows, weight_bytes};
use crate::numeric;
use crate::program::{Act, Elem, Program, ShapeError, Weight, expect};
use crate::tensor::Tensor;

/// Chooses the experts of each row and their weights.
///
/// With `z[c] = x[r, c] / sqrt(mean(x[r, ..]²) + eps) · scale[c] / sqrt(cols)`:
/// `p = softmax(proj · z)` over all experts; the `top_k` largest, the lower index first among equals, in
/// falling order; `weights[r, k] = p[k] / Σ p[top_k] · expert_scale[experts[r, k]]`.
///
/// - `x`: `[rows, cols]`, the residual stream itself, not normalised before.
/// - `scale`: `[cols]`; `proj`: `[experts, cols]`; `expert_scale`: `[experts]`.
/// - `experts`: `[rows, top_k]` indices; `weights`: `[rows, top_k]`, which need not sum to 1.
///
/// The sum over the chosen is at least 6.1035e-5, as in llama.cpp; a softmax over 128 never gets there.
///
/// Source: `Gemma4TextRouter` in transformers, `modeling_gemma4.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The residual stream.
    pub x: Act,
    /// Factor of each normalised column.
    pub scale: Weight,
    /// The router's matrix.
    pub proj: Weight,
    /// Factor of each expert's weight.
    pub expert_scale: Weight,
    /// Added to the mean square.
    pub eps: f32,
    /// Chosen experts.
    pub experts: Act,
    /// Their weights.
    pub weights: Act,
}

impl Program {
    /// Records [`Route`] and returns the chosen experts and their weights.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if the widths differ or there are fewer than `top_k` experts.
    pub fn route(
        &mut self,
        x: Act,
        [scale, proj, expert_scale]: [Weight; 3],
        top_k: usize,
        eps: f32,
    ) -> Result<(Act, Act), ShapeError> {
        let (op, cols, count) = ("route", self.cols(x), self.weight(proj).rows);
        expect(op, "length of the scale", cols, self.weight(scale).cols)?;
        expect(op, "inputs of the router", cols, self.weight(proj).cols)?;
        expect(op, "length of the experts' scale", count, self.weight(expert_scale).cols)?;
        expect(op, "experts a token", top_k, top_k.min(count))?;
        let rows = self.spec(x).rows;
        let experts = self.act(rows, top_k, Elem::U32);
        let weights = self.act(rows, top_k, Elem::F32);
        self.ops.push(Op::Route(Route { x, scale, proj, expert_scale, eps, experts, weights }));
        Ok((experts, weights))
    }
}

impl Describe for Route {
    fn reads(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.experts, self.weights]
    }

    fn weights(&self) -> Vec<Weight> {
        vec![self.scale, self.proj, self.expert_scale]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let products = rows(program, self.x, load) * program.cols(self.x) * program.weight(self.proj).rows;
        Cost {
            weight_bytes: weight_bytes(program, &Describe::weights(self)),
            flops: 2 * products as u64,
            ..Cost::default()
        }
    }
}

/// The specification, executed. `experts` and `weights` are `[rows, top_k]`.
///
/// # Panics
///
/// If there are more than 2^32 experts.
pub fn reference(
    x: &[f32],
    scale: &[f32],
    proj: &Tensor,
    expert_scale: &[f32],
    eps: f32,
    experts: &mut [u32],
    weights: &mut [f32],
) {
    let cols = scale.len();
    let rows = x.len() / cols;
    let top_k = weights.len() / rows.max(1);
    let mut z = vec![0.0f32; x.len()];
    let fixed = 1.0 / (cols as f64).sqrt();
    z.par_chunks_exact_mut(cols).zip(x.par_chunks_exact(cols)).for_each(|(z, x)| {
        let norm = fixed / (numeric::mean_square(x) + f64::from(eps)).sqrt();
        for ((z, &x), &s) in z.iter_mut().zip(x).zip(scale) {
            *z = numeric::round(f64::from(x) * norm * f64::from(s));
        }
    });
    let mut logits = vec![0.0f32; rows * proj.rows];
    super::linear::reference(&z, &[proj], &mut logits);

    let rows = logits.chunks_exact(proj.rows);
    let outs = experts.chunks_exact_mut(top_k).zip(weights.chunks_exact_mut(top_k));
    for (logits, (experts, weights)) in rows.zip(outs) {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let p: Vec<f64> = logits.iter().map(|&l| (f64::from(l) - f64::from(top)).exp()).collect();
        let total: f64 = p.iter().sum();
        let mut order: Vec<usize> = (0..p.len()).collect();
        // A stable sort: among equals the lower index comes first.
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        let chosen: f64 = order[..top_k].iter().map(|&e| p[e] / total).sum();
        for ((expert, weight), &e) in experts.iter_mut().zip(weights).zip(&order) {
            *expert = u32::try_from(e).expect("experts are counted in hundreds");
            *weight = numeric::round(p[e] / total / chosen.max(6.1035e-5) * f64::from(expert_scale[e]));
        }
    }
}
