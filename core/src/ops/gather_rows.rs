//! Op `gather_rows`.

use super::{Cost, Describe, Load, Op};
use crate::program::{Act, Elem, Program, Rows};

/// Copies the rows that the step picked: those whose logits, or hidden states, somebody wants.
///
/// `out[i, c] = x[picked[i], c]`
///
/// - `x`: `[rows, cols]`; `picked`: row numbers of the step; `out`: `[picked, cols]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherRows {
    /// Input.
    pub x: Act,
    /// The picked rows.
    pub out: Act,
}

impl Program {
    /// Records [`GatherRows`] and returns its output.
    pub fn gather_rows(&mut self, x: Act) -> Act {
        let out = self.act(Rows::Picked, self.cols(x), Elem::F32);
        self.ops.push(Op::GatherRows(GatherRows { x, out }));
        out
    }
}

impl Describe for GatherRows {
    fn reads(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn cost(&self, _: &Program, _: Load) -> Cost {
        Cost::default()
    }
}

/// The specification, executed.
pub fn reference(x: &[f32], picked: &[u32], cols: usize, out: &mut [f32]) {
    for (out, &row) in out.chunks_exact_mut(cols).zip(picked) {
        let from = row as usize * cols;
        out.copy_from_slice(&x[from..from + cols]);
    }
}
