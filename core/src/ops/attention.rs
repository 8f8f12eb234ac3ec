//! Op `attention`.

use rayon::prelude::*;

use super::attn_prepare::Heads;
use super::{Cost, Describe, Load, Op};
use crate::kv_type::tq3;
use crate::numeric::{self, Vectorised};
use crate::program::{Act, Program, ShapeError, State, expect};

/// Which keys a query sees, by absolute position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every key at or before the query.
    Causal,
    /// The last `n` of them, the query's own included.
    Window(usize),
}

impl Mask {
    /// First position that a query at `position` sees; the last is its own.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "a window is at most 2^24 tokens")]
    pub fn first(self, position: u32) -> u32 {
        match self {
            Mask::Causal => 0,
            Mask::Window(n) => {
                (position + 1).saturating_sub(u32::try_from(n).expect("a window is a number of tokens"))
            }
        }
    }
}

/// Attention of each row over the cache, its own step's keys included.
///
/// For query head `h` and its key head `g = h / (heads / kv_heads)`, over the visible positions `j`:
/// `out[r, h] = Σ_j softmax_j(q[r, h] · key[g, j]) · value[g, j]`. The scale of the logits is 1, uncapped.
///
/// - `q`, `out`: `[rows, heads · head_dim]`; keys and values come from the pages of the row's sequence.
/// - A pool of a rotated type holds `R · x`: queries are rotated if the keys are, and the output is rotated
///   back if the values are, each independently.
///
/// Split by absolute page and combined in page order if split at all, never by the number of rows.
///
/// Source: `eager_attention_forward` in transformers, `modeling_gemma4.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Prepared queries.
    pub q: Act,
    /// Shape.
    pub heads: Heads,
    /// Pool of keys.
    pub k: State,
    /// Pool of values.
    pub v: State,
    /// Visible keys.
    pub mask: Mask,
    /// Output.
    pub out: Act,
}

impl Program {
    /// Records [`Attention`] and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if queries or cache do not follow from `heads`.
    pub fn attention(
        &mut self,
        q: Act,
        heads: Heads,
        (k, v): (State, State),
        mask: Mask,
    ) -> Result<Act, ShapeError> {
        let op = "attention";
        expect(op, "width of the queries", heads.heads * heads.head_dim, self.cols(q))?;
        for state in [k, v] {
            expect(op, "heads of the cache", heads.kv_heads, self.state(state).kv_heads)?;
            expect(op, "head width of the cache", heads.head_dim, self.state(state).head_dim)?;
        }
        let out = self.act_like(q, self.cols(q));
        self.ops.push(Op::Attention(Attention { q, heads, k, v, mask, out }));
        Ok(out)
    }
}

impl Describe for Attention {
    fn reads(&self) -> Vec<Act> {
        vec![self.q]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn states(&self) -> Vec<State> {
        vec![self.k, self.v]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let seen = match self.mask {
            Mask::Causal => load.context + load.rows,
            Mask::Window(n) => (load.context + load.rows).min(n + load.rows - 1),
        };
        let row: usize = self.states().iter().map(|&s| program.state(s).row_bytes()).sum();
        // Keys that one row sees, on average over the rows of the step.
        let mean = match self.mask {
            Mask::Causal => load.context + load.rows.div_ceil(2),
            Mask::Window(n) => (load.context + load.rows.div_ceil(2)).min(n),
        };
        Cost {
            kv_bytes: (seen * self.heads.kv_heads * row) as u64,
            flops: 4 * (load.rows * self.heads.heads * self.heads.head_dim) as u64 * mean as u64,
            ..Cost::default()
        }
    }
}

/// Decoded keys and values of one sequence and one key head.
#[derive(Debug)]
pub struct Visible {
    /// Position of the first row.
    pub first: u32,
    /// Keys, `[positions, head_dim]`, in the domain they are stored in.
    pub keys: Vec<f32>,
    /// Values, likewise.
    pub values: Vec<f32>,
}

/// Domains that keys and values are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Keys hold `R · k`.
    pub keys: bool,
    /// Values hold `R · v`.
    pub values: bool,
}

/// The specification, executed for one row and the query heads of one key head.
///
/// - `q`, `out`: `[heads / kv_heads, head_dim]`; `seen` covers the row's visible positions.
pub fn reference(q: &[f32], position: u32, mask: Mask, seen: &Visible, rotated: Rotated, dim: usize, out: &mut [f32]) {
    let from = (mask.first(position) - seen.first) as usize * dim;
    let to = (position + 1 - seen.first) as usize * dim;
    let (keys, values) = (&seen.keys[from..to], &seen.values[from..to]);
    let pairs = q.par_chunks_exact(dim).zip(out.par_chunks_exact_mut(dim));
    pairs.for_each(|(q, out)| {
        let mut q = q.to_vec();
        if rotated.keys {
            tq3::rotate(&mut q);
        }
        numeric::vectorised(OneHead { q: &q, keys, values, out });
        if rotated.values {
            tq3::unrotate(out);
        }
    });
}

struct OneHead<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorised for OneHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let dim = self.q.len();
        let mut p: Vec<f64> = Vec::with_capacity(self.keys.len() / dim);
        for key in self.keys.chunks_exact(dim) {
            p.push(numeric::dot(self.q, key));
        }
        let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        for p in &mut p {
            *p = (*p - top).exp();
            total += *p;
        }
        let mut sum = vec![0.0f64; dim];
        for (p, value) in p.iter().zip(self.values.chunks_exact(dim)) {
            for (sum, &v) in sum.iter_mut().zip(value) {
                *sum += p * f64::from(v);
            }
        }
        for (out, sum) in self.out.iter_mut().zip(sum) {
            *out = numeric::round(sum / total);
        }
    }
}
