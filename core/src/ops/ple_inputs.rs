//! Op `ple_inputs`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op};
use crate::numeric;
use crate::program::{Act, Program, ShapeError, Weight, expect};
use crate::quant;
use crate::tensor::Tensor;

/// The per-layer inputs of E2B and E4B: one vector of `ple` values for each layer.
///
/// With `A = table[token[r]] · sqrt(ple)` and `B = context[r] / sqrt(hidden)`, both cut into pieces of `ple`:
/// `out[r, l, ..] = (RMSNorm(B[l, ..]) · norm + A[l, ..]) / sqrt(2)`
///
/// - `context`: `[rows, layers · ple]`, the product of the scaled embedding with `per_layer_model_proj`.
/// - `table`: `[vocab, layers · ple]`; `norm`: `[ple]`, shared by all layers; `out`: `[rows, layers · ple]`.
/// - `hidden`: width of the residual stream; `eps` in squared activation units.
///
/// Source: `get_per_layer_inputs` and `project_per_layer_inputs` in transformers, `modeling_gemma4.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct PleInputs {
    /// Projected embeddings.
    pub context: Act,
    /// Per-layer embedding table.
    pub table: Weight,
    /// Norm weight.
    pub norm: Weight,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Epsilon of the norm.
    pub eps: f32,
    /// One vector a layer.
    pub out: Act,
}

impl Program {
    /// Records [`PleInputs`] and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if table and context differ in width or `norm` does not divide it.
    pub fn ple_inputs(
        &mut self,
        context: Act,
        table: Weight,
        norm: Weight,
        hidden: usize,
        eps: f32,
    ) -> Result<Act, ShapeError> {
        let cols = self.weight(table).cols;
        expect("ple_inputs", "width of the context", cols, self.cols(context))?;
        expect("ple_inputs", "remainder of the table's width by the norm's", 0, cols % self.weight(norm).cols)?;
        let out = self.act_like(context, cols);
        self.ops.push(Op::PleInputs(PleInputs { context, table, norm, hidden, eps, out }));
        Ok(out)
    }
}

impl Describe for PleInputs {
    fn reads(&self) -> Vec<Act> {
        vec![self.context]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn weights(&self) -> Vec<Weight> {
        vec![self.table, self.norm]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let table = program.weight(self.table);
        let row = table.bytes() / (table.rows as u64).max(1);
        Cost {
            weight_bytes: row * load.rows as u64 + program.weight(self.norm).bytes(),
            flops: (6 * load.rows * table.cols) as u64,
            ..Cost::default()
        }
    }
}

/// The specification, executed.
pub fn reference(
    tokens: &[u32],
    context: &[f32],
    table: &Tensor,
    norm: &[f32],
    hidden: usize,
    eps: f32,
    out: &mut [f32],
) {
    let (cols, ple) = (table.cols, norm.len());
    let token_scale = (ple as f64).sqrt();
    let context_scale = 1.0 / (hidden as f64).sqrt();
    let rows = out.par_chunks_exact_mut(cols).zip(context.par_chunks_exact(cols)).zip(tokens);
    rows.for_each(|((out, context), &token)| {
        quant::decode(table.dtype, table.row(0, token as usize), out);
        for (out, context) in out.chunks_exact_mut(ple).zip(context.chunks_exact(ple)) {
            let mean_square = numeric::mean_square(context) * context_scale.powi(2);
            let scale = context_scale / (mean_square + f64::from(eps)).sqrt();
            for ((out, &b), &w) in out.iter_mut().zip(context).zip(norm) {
                let b = f64::from(b) * scale * f64::from(w);
                *out = numeric::round((b + f64::from(*out) * token_scale) * std::f64::consts::FRAC_1_SQRT_2);
            }
        }
    });
}
