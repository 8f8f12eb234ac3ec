//! Op `centroid_head`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows};
use crate::numeric;
use crate::program::{Act, Program, ShapeError, Weight, expect};
use crate::quant;
use crate::tensor::Tensor;

/// Logits of the tokens of the best clusters alone: the output head of the assistants of E2B and E4B.
///
/// The `top_k` largest of a row's `scores` choose clusters, the lower index first where scores are equal. Cluster `c`
/// has the tokens `ordering[c · n .. (c + 1) · n]` with `n = vocab / clusters`. For each of those tokens `t`
/// `out[r, t] = Σ_i x[r, i] · table[t, i]`; every other logit is the smallest of these, less 1.
///
/// - `x`: `[rows, hidden]`; `scores`: `[rows, clusters]`; `table`: `[vocab, hidden]` of any type, in the order of the
///   tokens; `ordering`: `[vocab]` in `f32`, each token once; `out`: `[rows, vocab]`.
///
/// Source: `Gemma4AssistantMaskedEmbedder` in transformers, `modeling_gemma4_assistant.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct CentroidHead {
    /// Normed hidden state.
    pub x: Act,
    /// Scores of the clusters.
    pub scores: Act,
    /// The embedding table.
    pub table: Weight,
    /// Tokens by cluster.
    pub ordering: Weight,
    /// Clusters that are looked into.
    pub top_k: usize,
    /// Logits.
    pub out: Act,
}

impl Program {
    /// Records [`CentroidHead`] and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if a width does not fit, or the tokens do not fill the clusters.
    pub fn centroid_head(
        &mut self,
        (x, scores): (Act, Act),
        (table, ordering): (Weight, Weight),
        top_k: usize,
    ) -> Result<Act, ShapeError> {
        let op = "centroid_head";
        let (vocab, clusters) = (self.weight(table).rows, self.cols(scores));
        expect(op, "inputs of the table", self.cols(x), self.weight(table).cols)?;
        expect(op, "length of the ordering", vocab, self.weight(ordering).cols)?;
        expect(op, "remainder of the tokens by the clusters", 0, vocab % clusters.max(1))?;
        expect(op, "chosen clusters", top_k.clamp(1, clusters), top_k)?;
        let out = self.act_like(x, vocab);
        self.ops.push(Op::CentroidHead(CentroidHead { x, scores, table, ordering, top_k, out }));
        Ok(out)
    }
}

impl Describe for CentroidHead {
    fn reads(&self) -> Vec<Act> {
        vec![self.x, self.scores]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn weights(&self) -> Vec<Weight> {
        vec![self.table, self.ordering]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let rows = rows(program, self.x, load);
        let clusters = program.cols(self.scores);
        let tokens = program.cols(self.out) / clusters * self.top_k;
        let row = program.weight(self.table).bytes() / program.cols(self.out).max(1) as u64;
        Cost {
            weight_bytes: (rows * tokens) as u64 * (row + 4),
            flops: (2 * rows * tokens * program.cols(self.x)) as u64,
            ..Cost::default()
        }
    }
}

/// The clusters that a row of scores chooses, best first.
#[must_use]
pub fn chosen(scores: &[f32], top_k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(top_k);
    order
}

/// The specification, executed. `ordering` holds token ids below `table.rows`.
pub fn reference(
    x: &[f32],
    scores: &[f32],
    table: &Tensor,
    ordering: &[f32],
    top_k: usize,
    out: &mut [f32],
) {
    let (vocab, hidden) = (table.rows, table.cols);
    let clusters = scores.len() * hidden / x.len();
    let each = vocab / clusters;
    let rows = out.par_chunks_exact_mut(vocab).zip(x.par_chunks_exact(hidden));
    rows.zip(scores.par_chunks_exact(clusters)).for_each(|((out, x), scores)| {
        let mut weights = vec![0.0f32; hidden];
        let mut logits = Vec::with_capacity(top_k * each);
        for cluster in chosen(scores, top_k) {
            for &id in &ordering[cluster * each..(cluster + 1) * each] {
                let token = token(id);
                quant::decode(table.dtype, table.row(0, token), &mut weights);
                let sum: f64 = weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                logits.push((token, numeric::round(sum)));
            }
        }
        let least = logits.iter().map(|&(_, logit)| logit).fold(f32::INFINITY, f32::min);
        out.fill(least - 1.0);
        for (token, logit) in logits {
            out[token] = logit;
        }
    });
}

/// The token that an element of the ordering stands for.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers below 2^24, checked at load")]
fn token(id: f32) -> usize {
    id as usize
}
