//! `kv_append`: one launch for all heads.

use gemma4_core::abi::HEADS_EACH;
use gemma4_core::ops::attn_prepare::Heads;
use gemma4_core::ops::kv_append::KvAppend;

use super::attn_prepare::{blocks, check_width, params};
use super::{Arg, Launch, Lowering, ONE};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("kv_append")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

pub(super) fn kv_append(op: &KvAppend, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    check_width(cx, "kv_append", op.head_dim)?;
    let heads = Heads { heads: 0, kv_heads: op.kv_heads, head_dim: op.head_dim };
    let (params, [k, v]) = params((op.kv, Some(op.own)), heads, op.eps, cx);
    cx.launch(Launch {
        op: "kv_append",
        unit: unit(),
        entry: "kv_append",
        args: vec![
            Arg::Act(op.kv),
            Arg::Weight(op.own.k_norm),
            Arg::Weight(op.frequency),
            k,
            v,
            Arg::Rows,
            Arg::Tables,
            Arg::params(&params),
            Arg::Step,
        ],
        grid: [cx.each_row(op.kv), blocks(&params), ONE],
        block: [32 * HEADS_EACH, 1, 1],
        shared: 0,
    });
    Ok(())
}
