//! Op `norm_add`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows, weight_bytes};
use crate::numeric;
use crate::program::{Act, Program, ShapeError, Weight, expect};

/// Adds a branch to the residual stream through its post-norm: the second half of Gemma's sandwich.
///
/// `residual[r, c] = (residual[r, c] + y[r, c] / sqrt(mean(y[r, ..]²) + eps) · weight[c]) · scale`
///
/// - `residual`: `[rows, cols]`, in place; `y`: `[rows, cols]`; `weight`: `[cols]`, multiplied as stored.
/// - `scale`: 1, or the layer scalar at the very end of a layer: it multiplies the whole stream.
///
/// Source: `Block.__call__` in google-deepmind/gemma, `gemma/gm/nn/gemma4/_modules.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct NormAdd {
    /// The stream, in place.
    pub residual: Act,
    /// The branch.
    pub y: Act,
    /// Factor of each column of the normalised branch.
    pub weight: Weight,
    /// Factor of the sum.
    pub scale: f32,
    /// Added to the mean square.
    pub eps: f32,
}

impl Program {
    /// Records [`NormAdd`].
    ///
    /// # Errors
    ///
    /// [`ShapeError::Aliased`] if `y` is the residual, [`ShapeError::Mismatch`] if widths differ.
    pub fn norm_add(
        &mut self,
        residual: Act,
        y: Act,
        weight: Weight,
        scale: f32,
        eps: f32,
    ) -> Result<(), ShapeError> {
        let op = "norm_add";
        if residual == y {
            return Err(ShapeError::Aliased { op, act: y });
        }
        expect(op, "width of the branch", self.cols(residual), self.cols(y))?;
        expect(op, "length of the weight", self.cols(residual), self.weight(weight).cols)?;
        self.ops.push(Op::NormAdd(NormAdd { residual, y, weight, scale, eps }));
        Ok(())
    }
}

impl Describe for NormAdd {
    fn reads(&self) -> Vec<Act> {
        vec![self.residual, self.y]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.residual]
    }

    fn weights(&self) -> Vec<Weight> {
        vec![self.weight]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let elements = rows(program, self.y, load) * program.cols(self.y);
        Cost {
            weight_bytes: weight_bytes(program, &[self.weight]),
            flops: 6 * elements as u64,
            ..Cost::default()
        }
    }
}

/// The specification, executed.
pub fn reference(residual: &mut [f32], y: &[f32], weight: &[f32], scale: f32, eps: f32) {
    let cols = weight.len();
    residual.par_chunks_exact_mut(cols).zip(y.par_chunks_exact(cols)).for_each(|(residual, y)| {
        let norm = 1.0 / (numeric::mean_square(y) + f64::from(eps)).sqrt();
        for ((residual, &y), &w) in residual.iter_mut().zip(y).zip(weight) {
            let branch = f64::from(y) * norm * f64::from(w);
            *residual = numeric::round((f64::from(*residual) + branch) * f64::from(scale));
        }
    });
}
