//! Op `keep_rows`.

use super::{Cost, Describe, Load, Op, rows};
use crate::program::{Act, Program, Ring, ShapeError, State, expect};

/// Copies rows to where a later program finds them: features and hidden states for drafters.
///
/// `ring[slot[r], position[r] mod rows, column + c] = x[r, c]`
///
/// - `x`: `[rows, cols]`, of the step's rows or the picked ones; slot and position are the row's.
/// - Where a sequence has more rows in a step than the ring, only the last ones are kept: a row is left out if the step
///   has a row of its slot `ring.rows` positions or more ahead of it.
///
/// It changes nothing that this program computes.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepRows {
    /// What is kept.
    pub x: Act,
    /// Where.
    pub ring: Ring,
    /// First column of the ring's rows.
    pub column: usize,
}

impl Program {
    /// Records [`KeepRows`].
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if the ring's rows end before the last column.
    pub fn keep_rows(&mut self, x: Act, ring: Ring, column: usize) -> Result<(), ShapeError> {
        let end = column + self.cols(x);
        expect("keep_rows", "end of the columns", end.min(self.state(ring.state).head_dim), end)?;
        self.ops.push(Op::KeepRows(KeepRows { x, ring, column }));
        Ok(())
    }
}

impl Describe for KeepRows {
    fn reads(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Act> {
        Vec::new()
    }

    fn states(&self) -> Vec<State> {
        vec![self.ring.state]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let bytes = rows(program, self.x, load) * program.cols(self.x) * 4;
        Cost { act_bytes: bytes as u64, ..Cost::default() }
    }
}
