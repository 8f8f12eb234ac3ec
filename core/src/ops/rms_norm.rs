//! Op `rms_norm`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows, weight_bytes};
use crate::numeric;
use crate::program::{Act, Program, ShapeError, Weight, expect};

/// Root-mean-square normalisation of each row.
///
/// `out[r, c] = x[r, c] / sqrt(mean(x[r, ..]²) + eps) · weight[c]`
///
/// - `x`, `out`: `[rows, cols]`; `out` is not `x`.
/// - `weight`: `[cols]`, multiplied as stored. Gemma 1 to 3 used `1 + weight`; Gemma 4 does not.
/// - `eps`: in squared activation units; 1e-6 for every Gemma 4 model.
///
/// Sums may be taken in any order and in `f32`. Rows do not influence one another.
///
/// Source: `RMSNorm` in google-deepmind/gemma, `gemma/gm/nn/gemma4/_layers.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Input.
    pub x: Act,
    /// Factor of each column.
    pub weight: Weight,
    /// Output.
    pub out: Act,
    /// Added to the mean square.
    pub eps: f32,
}

impl Program {
    /// Records [`RmsNorm`] and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if `weight` is not as long as `x` is wide.
    pub fn rms_norm(&mut self, x: Act, weight: Weight, eps: f32) -> Result<Act, ShapeError> {
        expect("rms_norm", "length of the weight", self.cols(x), self.weight(weight).cols)?;
        let out = self.act_like(x, self.cols(x));
        self.ops.push(Op::RmsNorm(RmsNorm { x, weight, out, eps }));
        Ok(out)
    }
}

impl Describe for RmsNorm {
    fn reads(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn weights(&self) -> Vec<Weight> {
        vec![self.weight]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let elements = rows(program, self.x, load) * program.cols(self.x);
        Cost {
            weight_bytes: weight_bytes(program, &[self.weight]),
            flops: 4 * elements as u64,
            ..Cost::default()
        }
    }
}

/// The specification, executed.
pub fn reference(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let cols = weight.len();
    out.par_chunks_exact_mut(cols).zip(x.par_chunks_exact(cols)).for_each(|(out, x)| {
        let scale = 1.0 / (numeric::mean_square(x) + f64::from(eps)).sqrt();
        for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *out = numeric::round(f64::from(x) * scale * f64::from(w));
        }
    });
}
