//! Op `attn_prepare`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, weight_bytes};
use crate::numeric;
use crate::program::{Act, Program, ShapeError, State, Weight, expect};

/// Shape of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` uses number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
}

/// The keys and values that a layer computes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnKeys {
    /// Norm weight of the keys, `[head_dim]`.
    pub k_norm: Weight,
    /// Where values come from.
    pub values: Values,
    /// Pool of keys.
    pub k: State,
    /// Pool of values.
    pub v: State,
}

/// Where a layer's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Columns of their own, after the keys.
    Projected,
    /// The raw key projection, before its norm and rotation (`attention_k_eq_v`).
    RawKeys,
    /// Columns of their own, stored as they are: without a norm. DFlash drafters have Qwen 3's layers.
    Plain,
}

/// Everything between the projections and the attention of a layer.
///
/// For each head, with `n(x) = x / sqrt(mean(x²) + eps)` over `head_dim` values:
///
/// - `out[r, h] = rope(n(q[r, h]) · q_norm)`
/// - key `= rope(n(k[r, h]) · k_norm)`, value `= n(v[r, h])`: no weight, no rotation, on every layer of the target, and
///   `v[r, h]` itself where values are plain; both go to the cache at the row's position, encoded in the cache's type.
///
/// `rope` turns the pair `(i, i + head_dim / 2)` by the angle `position · frequency[i]`, the product taken in
/// `f32`.
///
/// - `qkv`: `[rows, (heads + kv_heads (+ kv_heads)) · head_dim]`, or queries alone where the layer shares a
///   donor's cache; `frequency`: `[head_dim / 2]`, radians a position; `out`: `[rows, heads · head_dim]`.
///
/// Source: `Gemma4TextAttention` in transformers, `modeling_gemma4.py`; RoPE: `apply_rotary_pos_emb`.
#[derive(Clone, Debug, PartialEq)]
pub struct AttnPrepare {
    /// Projections.
    pub qkv: Act,
    /// Shape.
    pub heads: Heads,
    /// Norm weight of the queries.
    pub q_norm: Weight,
    /// Angles a position.
    pub frequency: Weight,
    /// The layer's own keys and values; `None` if it reads a donor's.
    pub own: Option<OwnKeys>,
    /// Added to the mean squares.
    pub eps: f32,
    /// Prepared queries.
    pub out: Act,
}

impl Program {
    /// Records [`AttnPrepare`] and returns the prepared queries.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if a width does not follow from `heads`.
    pub fn attn_prepare(
        &mut self,
        qkv: Act,
        heads: Heads,
        (q_norm, frequency): (Weight, Weight),
        own: Option<OwnKeys>,
        eps: f32,
    ) -> Result<Act, ShapeError> {
        let (op, dim) = ("attn_prepare", heads.head_dim);
        let mut columns = heads.heads;
        if let Some(own) = own {
            columns += heads.kv_heads * if own.values == Values::RawKeys { 1 } else { 2 };
            expect(op, "length of the keys' norm", dim, self.weight(own.k_norm).cols)?;
            for state in [own.k, own.v] {
                expect(op, "heads of the cache", heads.kv_heads, self.state(state).kv_heads)?;
                expect(op, "head width of the cache", dim, self.state(state).head_dim)?;
            }
        }
        expect(op, "width of the projections", columns * dim, self.cols(qkv))?;
        expect(op, "length of the queries' norm", dim, self.weight(q_norm).cols)?;
        expect(op, "length of the frequencies", dim / 2, self.weight(frequency).cols)?;
        expect(op, "remainder of heads by key heads", 0, heads.heads % heads.kv_heads)?;
        let out = self.act_like(qkv, heads.heads * dim);
        self.ops.push(Op::AttnPrepare(AttnPrepare { qkv, heads, q_norm, frequency, own, eps, out }));
        Ok(out)
    }
}

impl Describe for AttnPrepare {
    fn reads(&self) -> Vec<Act> {
        vec![self.qkv]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn weights(&self) -> Vec<Weight> {
        [self.q_norm, self.frequency].into_iter().chain(self.own.map(|own| own.k_norm)).collect()
    }

    fn states(&self) -> Vec<State> {
        self.own.map_or_else(Vec::new, |own| vec![own.k, own.v])
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let row: usize = self.states().iter().map(|&s| program.state(s).row_bytes()).sum();
        Cost {
            weight_bytes: weight_bytes(program, &self.weights()),
            kv_bytes: (load.rows * self.heads.kv_heads * row) as u64,
            flops: (10 * load.rows * program.cols(self.qkv)) as u64,
            ..Cost::default()
        }
    }
}

/// Norms one head: `x / sqrt(mean(x²) + eps) · weight`, without a weight where there is none.
fn head_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (numeric::mean_square(x) + f64::from(eps)).sqrt();
    for (i, (out, &x)) in out.iter_mut().zip(x).enumerate() {
        *out = numeric::round(f64::from(x) * scale * weight.map_or(1.0, |w| f64::from(w[i])));
    }
}

/// Turns the pairs `(i, i + dim / 2)` of one head.
#[expect(clippy::cast_precision_loss, reason = "positions stay below 2^24, where f32 is exact")]
pub fn rope(head: &mut [f32], position: u32, frequency: &[f32]) {
    let (low, high) = head.split_at_mut(frequency.len());
    for ((a, b), &f) in low.iter_mut().zip(high).zip(frequency) {
        let (sin, cos) = f64::from(position as f32 * f).sin_cos();
        let (x, y) = (f64::from(*a), f64::from(*b));
        *a = numeric::round(x * cos - y * sin);
        *b = numeric::round(y * cos + x * sin);
    }
}

/// One row's keys and values, `[kv_heads, head_dim]` each, before they are encoded.
pub type KeysValues = (Vec<f32>, Vec<f32>);

/// The specification, executed: prepares queries into `out`, and returns the keys and values of each row.
///
/// `own` holds the keys' norm weight and the source of the values.
pub fn reference(
    qkv: &[f32],
    positions: &[u32],
    heads: Heads,
    (q_norm, frequency): (&[f32], &[f32]),
    own: Option<(&[f32], Values)>,
    eps: f32,
    out: &mut [f32],
) -> Vec<KeysValues> {
    let dim = heads.head_dim;
    let q_cols = heads.heads * dim;
    let width = qkv.len() / positions.len().max(1);
    let rows = out.par_chunks_exact_mut(q_cols).zip(qkv.par_chunks_exact(width)).zip(positions);
    rows.map(|((out, qkv), &position)| {
        for (out, q) in out.chunks_exact_mut(dim).zip(qkv.chunks_exact(dim)) {
            head_norm(q, Some(q_norm), eps, out);
            rope(out, position, frequency);
        }
        let Some((k_norm, values)) = own else { return KeysValues::default() };
        keys_values(&qkv[q_cols..], position, heads.kv_heads, dim, (k_norm, frequency), values, eps)
    })
    .collect()
}

/// Keys and values of one row from its raw keys and, behind them, its raw values.
pub(super) fn keys_values(
    raw: &[f32],
    position: u32,
    kv_heads: usize,
    dim: usize,
    (k_norm, frequency): (&[f32], &[f32]),
    source: Values,
    eps: f32,
) -> KeysValues {
    let cols = kv_heads * dim;
    let (mut keys, mut values) = (vec![0.0; cols], vec![0.0; cols]);
    for (key, raw) in keys.chunks_exact_mut(dim).zip(raw.chunks_exact(dim)) {
        head_norm(raw, Some(k_norm), eps, key);
        rope(key, position, frequency);
    }
    let raw = if source == Values::RawKeys { &raw[..cols] } else { &raw[cols..2 * cols] };
    for (value, raw) in values.chunks_exact_mut(dim).zip(raw.chunks_exact(dim)) {
        match source {
            Values::Plain => value.copy_from_slice(raw),
            Values::Projected | Values::RawKeys => head_norm(raw, None, eps, value),
        }
    }
    (keys, values)
}
