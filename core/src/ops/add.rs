//! Op `add`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows};
use crate::program::{Act, Program, ShapeError, expect};

/// Adds one activation to another, in place.
///
/// `x[r, c] = x[r, c] + y[r, c]`; both `[rows, cols]`. Joins the dense and the expert branch of 26B-A4B.
#[derive(Clone, Debug, PartialEq)]
pub struct Add {
    /// The sum, in place.
    pub x: Act,
    /// What is added.
    pub y: Act,
}

impl Program {
    /// Records [`Add`].
    ///
    /// # Errors
    ///
    /// [`ShapeError::Aliased`] if `x` is `y`, [`ShapeError::Mismatch`] if widths differ.
    pub fn add(&mut self, x: Act, y: Act) -> Result<(), ShapeError> {
        if x == y {
            return Err(ShapeError::Aliased { op: "add", act: x });
        }
        expect("add", "width of the second operand", self.cols(x), self.cols(y))?;
        self.ops.push(Op::Add(Add { x, y }));
        Ok(())
    }
}

impl Describe for Add {
    fn reads(&self) -> Vec<Act> {
        vec![self.x, self.y]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        Cost { flops: (rows(program, self.x, load) * program.cols(self.x)) as u64, ..Cost::default() }
    }
}

/// The specification, executed.
pub fn reference(x: &mut [f32], y: &[f32]) {
    x.par_iter_mut().with_min_len(1 << 14).zip(y).for_each(|(x, &y)| *x += y);
}
