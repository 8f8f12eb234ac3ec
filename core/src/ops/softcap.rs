//! Op `softcap`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows};
use crate::numeric;
use crate::program::{Act, Program};

/// Soft cap of logits, in place.
///
/// `x[r, c] = cap · tanh(x[r, c] / cap)`; `x`: `[rows, cols]`; `cap` in logits, 30 for Gemma 4.
///
/// Monotonic, so the greedy token stays; sampling probabilities change, so it comes before the temperature.
///
/// Source: `final_logit_softcapping` in transformers, `modeling_gemma4.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct Softcap {
    /// The logits, in place.
    pub x: Act,
    /// Largest magnitude.
    pub cap: f32,
}

impl Program {
    /// Records [`Softcap`].
    pub fn softcap(&mut self, x: Act, cap: f32) {
        self.ops.push(Op::Softcap(Softcap { x, cap }));
    }
}

impl Describe for Softcap {
    fn reads(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        Cost { flops: 3 * (rows(program, self.x, load) * program.cols(self.x)) as u64, ..Cost::default() }
    }
}

/// The specification, executed.
pub fn reference(x: &mut [f32], cap: f32) {
    let cap = f64::from(cap);
    x.par_iter_mut().with_min_len(1 << 12).for_each(|x| {
        *x = numeric::round(cap * (f64::from(*x) / cap).tanh());
    });
}
