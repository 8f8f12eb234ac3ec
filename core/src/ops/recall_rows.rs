//! Op `recall_rows`.

use super::{Cost, Describe, Load, Op};
use crate::program::{Act, Elem, Program, Ring, Rows, State};

/// Rows that an earlier step kept with [`KeepRows`](super::keep_rows::KeepRows).
///
/// `out[r, c] = ring[slot[r], (position[r] - back) mod rows, c]`
///
/// - `out`: `[rows, cols]`, all columns of the ring. `back` is 0 or 1, and no row is at position 0 where it is 1.
#[derive(Clone, Debug, PartialEq)]
pub struct RecallRows {
    /// Where they are.
    pub ring: Ring,
    /// Positions before the row's own.
    pub back: u32,
    /// The rows.
    pub out: Act,
}

impl Program {
    /// Records [`RecallRows`] and returns its output.
    pub fn recall_rows(&mut self, ring: Ring, back: u32) -> Act {
        let cols = self.state(ring.state).head_dim;
        let out = self.act(Rows::Step, cols, Elem::F32);
        self.ops.push(Op::RecallRows(RecallRows { ring, back, out }));
        out
    }
}

impl Describe for RecallRows {
    fn reads(&self) -> Vec<Act> {
        Vec::new()
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn states(&self) -> Vec<State> {
        vec![self.ring.state]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        Cost { act_bytes: (load.rows * program.cols(self.out) * 4) as u64, ..Cost::default() }
    }
}
