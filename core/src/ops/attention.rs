//! Op `attention`.

use std::ops::Range;

use pulp::Simd;

use super::attn_prepare::Heads;
use super::{Cost, Describe, Load, Op};
use crate::kv_type::tq3;
use crate::numeric::{self, Vectorised};
use crate::program::{Act, Class, Program, ShapeError, State, expect};

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

/// Up to where a query sees, beside its [`Mask`].
///
/// Rows of a target reach to themselves. The others are rows of drafters, and are recorded in the decode class alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// To the query's own position.
    #[default]
    Own,
    /// To the position before it: the query has no key of its own. It is never at position 0.
    Before,
    /// To the last row that the step has of its sequence, but less than a window ahead: the rows of a block see each
    /// other, whichever comes first.
    Block,
}

impl Reach {
    /// Last position that a query at `position` sees, with `ahead` more rows of its sequence behind it in the step.
    #[must_use]
    pub fn last(self, mask: Mask, position: u32, ahead: u32) -> u32 {
        match (self, mask) {
            (Reach::Own, _) => position,
            (Reach::Before, _) => position.saturating_sub(1),
            (Reach::Block, Mask::Causal) => position + ahead,
            (Reach::Block, Mask::Window(n)) => {
                position + ahead.min(u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX))
            }
        }
    }
}

/// Attention of each row over the cache, its own step's keys included.
///
/// For query head `h` and its key head `g = h / (heads / kv_heads)`, over the visible positions `j`, which begin where
/// [`Mask::first`] says and end where [`Reach::last`] does:
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
    /// Where they end.
    pub reach: Reach,
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
        self.attention_reaching(q, heads, (k, v), mask, Reach::Own)
    }

    /// Records [`Attention`] that ends elsewhere than at the query, and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if queries or cache do not follow from `heads`, or for the prefill class, whose rows
    /// reach to themselves.
    pub fn attention_reaching(
        &mut self,
        q: Act,
        heads: Heads,
        (k, v): (State, State),
        mask: Mask,
        reach: Reach,
    ) -> Result<Act, ShapeError> {
        let op = "attention";
        let drafted = reach == Reach::Own || self.class == Class::Decode;
        expect(op, "rows of prompts that do not reach to themselves", 0, usize::from(!drafted))?;
        expect(op, "width of the queries", heads.heads * heads.head_dim, self.cols(q))?;
        for state in [k, v] {
            expect(op, "heads of the cache", heads.kv_heads, self.state(state).kv_heads)?;
            expect(op, "head width of the cache", heads.head_dim, self.state(state).head_dim)?;
        }
        let out = self.act_like(q, self.cols(q));
        self.ops.push(Op::Attention(Attention { q, heads, k, v, mask, reach, out }));
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

/// The specification, executed for several rows of one sequence and the query heads of one key head.
///
/// - `q`: `[rows, heads / kv_heads, head_dim]`, and so is the result; `sees`: the positions that each row sees, of
///   which `seen` covers all.
#[must_use]
pub fn reference(
    q: &[f32],
    sees: &[Range<u32>],
    seen: &Visible,
    rotated: Rotated,
    dim: usize,
) -> Vec<f32> {
    let mut q = q.to_vec();
    if rotated.keys {
        q.chunks_exact_mut(dim).for_each(tq3::rotate);
    }
    let first = sees.iter().map(|range| range.start).min().unwrap_or(0);
    let end = sees.iter().map(|range| range.end).max().unwrap_or(first);
    let rows = (first - seen.first) as usize * dim..(end - seen.first) as usize * dim;
    let group = q.len() / dim / sees.len();
    let ranges: Vec<Range<usize>> = sees
        .iter()
        .flat_map(|range| {
            let range = (range.start - first) as usize..(range.end - first) as usize;
            std::iter::repeat_n(range, group)
        })
        .collect();
    let mut out = vec![0.0; q.len()];
    numeric::vectorised(Queries {
        q: &q,
        ranges: &ranges,
        keys: &seen.keys[rows.clone()],
        values: &seen.values[rows],
        dim,
        out: &mut out,
    });
    if rotated.values {
        out.chunks_exact_mut(dim).for_each(tq3::unrotate);
    }
    out
}

/// Keys whose `f64` values are at hand at once: they are made again for every group of queries.
const KEYS: usize = 32;

/// Queries over the same keys, each of which sees a range of them.
struct Queries<'a> {
    q: &'a [f32],
    ranges: &'a [Range<usize>],
    keys: &'a [f32],
    values: &'a [f32],
    dim: usize,
    out: &'a mut [f32],
}

impl Vectorised for Queries<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { q, ranges, keys, values, dim, out } = self;
        let seen = keys.len() / dim;
        let mut wide_q = vec![0.0f64; q.len()];
        numeric::widen(q, &mut wide_q);
        let mut block = vec![0.0f64; KEYS.min(seen) * dim];

        // [queries, seen]: logits, then weights, 0 where a query does not see.
        let mut p = vec![0.0f64; ranges.len() * seen];
        let mut logits = vec![0.0f64; ranges.len() * KEYS];
        for (at, keys) in keys.chunks(KEYS * dim).enumerate() {
            let count = keys.len() / dim;
            let block = &mut block[..keys.len()];
            numeric::widen(keys, block);
            let logits = &mut logits[..ranges.len() * count];
            numeric::products(simd, &wide_q, block, dim, logits);
            for (p, logits) in p.chunks_exact_mut(seen).zip(logits.chunks_exact(count)) {
                p[at * KEYS..][..count].copy_from_slice(logits);
            }
        }
        let mut totals = vec![0.0f64; ranges.len()];
        for ((p, range), total) in p.chunks_exact_mut(seen).zip(ranges).zip(&mut totals) {
            let (before, rest) = p.split_at_mut(range.start);
            let (p, after) = rest.split_at_mut(range.len());
            before.fill(0.0);
            after.fill(0.0);
            let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            for p in p {
                *p = (*p - top).exp();
                *total += *p;
            }
        }
        // A weight of 0 changes no bit of a sum, for what is stored is finite and a sum that began as 0 is never -0.
        let mut sums = vec![0.0f64; q.len()];
        for (at, values) in values.chunks(KEYS * dim).enumerate() {
            let block = &mut block[..values.len()];
            numeric::widen(values, block);
            numeric::weigh(simd, &p[at * KEYS..], seen, block, dim, &mut sums);
        }
        for ((out, sums), total) in out.chunks_exact_mut(dim).zip(sums.chunks_exact(dim)).zip(totals) {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = numeric::round(sum / total);
            }
        }
    }
}
