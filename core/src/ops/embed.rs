//! Op `embed`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op};
use crate::program::{Act, Elem, Program, Rows, Weight};
use crate::quant;
use crate::tensor::Tensor;

/// Rows of the (quantised) embedding table by token id, scaled.
///
/// `out[r, c] = table[token[r], c] · scale`
///
/// - `table`: `[vocab, hidden]`; `out`: `[rows, hidden]`.
/// - `scale`: `sqrt(hidden)` in `f32`, not rounded to bf16 as the bf16 reference model does.
///
/// Source: `Gemma4TextScaledWordEmbedding` in transformers, `models/gemma4/modeling_gemma4.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// The embedding table.
    pub table: Weight,
    /// Factor of every value.
    pub scale: f32,
    /// The scaled rows.
    pub out: Act,
}

impl Program {
    /// Records [`Embed`] and returns its output.
    pub fn embed(&mut self, table: Weight, scale: f32) -> Act {
        let cols = self.weight(table).cols;
        let out = self.act(Rows::Step, cols, Elem::F32);
        self.ops.push(Op::Embed(Embed { table, scale, out }));
        out
    }
}

impl Describe for Embed {
    fn reads(&self) -> Vec<Act> {
        Vec::new()
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn weights(&self) -> Vec<Weight> {
        vec![self.table]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let table = program.weight(self.table);
        let row = table.bytes() / (table.rows as u64).max(1);
        Cost { weight_bytes: row * load.rows as u64, flops: (load.rows * table.cols) as u64, ..Cost::default() }
    }
}

/// The specification, executed. `tokens` are below `table.rows`.
pub fn reference(tokens: &[u32], table: &Tensor, scale: f32, out: &mut [f32]) {
    out.par_chunks_exact_mut(table.cols).zip(tokens).for_each(|(out, &token)| {
        quant::decode(table.dtype, table.row(0, token as usize), out);
        for value in out {
            *value *= scale;
        }
    });
}
