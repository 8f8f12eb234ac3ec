//! Op `kv_append`.

use super::attn_prepare::{self, KeysValues, OwnKeys, Values};
use super::{Cost, Describe, Load, Op, weight_bytes};
use crate::program::{Act, Program, ShapeError, State, Weight, expect};

/// Keys and values of rows that ask nothing: the second half of [`AttnPrepare`](attn_prepare::AttnPrepare) alone.
///
/// Keys and values are made, turned and stored as that op says, at the row's position. A DFlash drafter makes those of
/// the committed tokens from what the target computed for them, which has no queries.
///
/// - `kv`: `[rows, kv_heads · head_dim]` raw keys, and behind them as many raw values unless values are the raw keys;
///   `frequency`: `[head_dim / 2]`, radians a position.
///
/// Source: `Qwen3DFlashAttention` in z-lab/dflash, `model.py`: `target_hidden` passes `k_proj` and `v_proj` only.
#[derive(Clone, Debug, PartialEq)]
pub struct KvAppend {
    /// Projections.
    pub kv: Act,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Angles a position.
    pub frequency: Weight,
    /// Norm of the keys, source of the values, and where both go.
    pub own: OwnKeys,
    /// Added to the mean squares.
    pub eps: f32,
}

impl Program {
    /// Records [`KvAppend`].
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if a width does not follow from the heads.
    pub fn kv_append(
        &mut self,
        kv: Act,
        (kv_heads, head_dim): (usize, usize),
        frequency: Weight,
        own: OwnKeys,
        eps: f32,
    ) -> Result<(), ShapeError> {
        let op = "kv_append";
        let columns = if own.values == Values::RawKeys { 1 } else { 2 };
        expect(op, "width of the projections", kv_heads * columns * head_dim, self.cols(kv))?;
        expect(op, "length of the keys' norm", head_dim, self.weight(own.k_norm).cols)?;
        expect(op, "length of the frequencies", head_dim / 2, self.weight(frequency).cols)?;
        for state in [own.k, own.v] {
            expect(op, "heads of the cache", kv_heads, self.state(state).kv_heads)?;
            expect(op, "head width of the cache", head_dim, self.state(state).head_dim)?;
        }
        self.ops.push(Op::KvAppend(KvAppend { kv, kv_heads, head_dim, frequency, own, eps }));
        Ok(())
    }
}

impl Describe for KvAppend {
    fn reads(&self) -> Vec<Act> {
        vec![self.kv]
    }

    fn writes(&self) -> Vec<Act> {
        Vec::new()
    }

    fn weights(&self) -> Vec<Weight> {
        vec![self.frequency, self.own.k_norm]
    }

    fn states(&self) -> Vec<State> {
        vec![self.own.k, self.own.v]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let row: usize = self.states().iter().map(|&s| program.state(s).row_bytes()).sum();
        Cost {
            weight_bytes: weight_bytes(program, &self.weights()),
            kv_bytes: (load.rows * self.kv_heads * row) as u64,
            flops: (10 * load.rows * program.cols(self.kv)) as u64,
            ..Cost::default()
        }
    }
}

/// The specification, executed: the keys and values of each row.
#[must_use]
pub fn reference(
    kv: &[f32],
    positions: &[u32],
    (kv_heads, head_dim): (usize, usize),
    (k_norm, frequency): (&[f32], &[f32]),
    values: Values,
    eps: f32,
) -> Vec<KeysValues> {
    let width = kv.len() / positions.len().max(1);
    kv.chunks_exact(width)
        .zip(positions)
        .map(|(kv, &position)| {
            attn_prepare::keys_values(kv, position, kv_heads, head_dim, (k_norm, frequency), values, eps)
        })
        .collect()
}
