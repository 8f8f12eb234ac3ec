//! `attn_prepare`: one launch for all heads.

use gemma4_core::abi::{self, CudaPrepareParams};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::ops::attn_prepare::{AttnPrepare, Values};

use super::{Arg, Count, Launch, Lowering, ONE, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

/// Widest head that the kernels take.
const HEAD_MAX: usize = 512;
/// Heads of a block, a warp each: `HEADS_EACH` of the kernel.
const HEADS_EACH: u32 = 4;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

fn unit() -> Unit {
    Unit::new("attn_prepare")
}

/// What kernels know a stored type by.
pub(super) fn kind(kv_type: KvType) -> u32 {
    match kv_type {
        KvType::F32 => abi::KV_F32,
        KvType::F16 => abi::KV_F16,
        KvType::Q8_0 => abi::KV_Q8_0,
        KvType::Q4_0 => abi::KV_Q4_0,
        KvType::TQ3_0 => abi::KV_TQ3_0,
    }
}

/// 1 for pools whose pages are found by the table of local layers.
pub(super) fn local(span: Span) -> u32 {
    u32::from(span == Span::Local)
}

/// Whether kernels take heads of this width.
pub(super) fn check_width(cx: &Lowering<'_>, op: &'static str, dim: usize) -> Result<(), CudaError> {
    if dim > HEAD_MAX || !dim.is_multiple_of(32) {
        let reason = format!("heads have {dim} values, expected a multiple of 32 of at most {HEAD_MAX}");
        return Err(cx.unsupported(op, reason));
    }
    Ok(())
}

pub(super) fn attn_prepare(op: &AttnPrepare, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let dim = op.heads.head_dim;
    check_width(cx, "attn_prepare", dim)?;
    let (heads, kv_heads) = (narrow(op.heads.heads), narrow(op.heads.kv_heads));
    let mut params = CudaPrepareParams {
        width: cx.cols(op.qkv),
        dim: narrow(dim),
        heads,
        planes: cx.planes(op.qkv),
        plane_stride: cx.plane_stride(op.qkv),
        eps: op.eps,
        ..CudaPrepareParams::default()
    };
    let (mut k_norm, mut pools) = (Arg::Null, [Arg::Null, Arg::Null]);
    if let Some(own) = op.own {
        let (k, v) = (cx.state(own.k).spec(), cx.state(own.v).spec());
        params.kv_heads = kv_heads;
        params.value_start = match own.values {
            Values::RawKeys => heads * params.dim,
            Values::Projected | Values::Plain => (heads + kv_heads) * params.dim,
        };
        params.local = local(k.span);
        (params.k_kind, params.v_kind) = (kind(k.kv_type), kind(v.kv_type));
        k_norm = Arg::Weight(own.k_norm);
        pools = [Arg::State(own.k), Arg::State(own.v)];
    }
    let [k, v] = pools;
    let blocks = (heads + 2 * params.kv_heads).div_ceil(HEADS_EACH);
    cx.launch(Launch {
        op: "attn_prepare",
        unit: unit(),
        entry: "attn_prepare",
        args: vec![
            Arg::Act(op.qkv),
            Arg::Weight(op.q_norm),
            k_norm,
            Arg::Weight(op.frequency),
            Arg::Act(op.out),
            k,
            v,
            Arg::Rows,
            Arg::Tables,
            Arg::params(&params),
            Arg::Step,
        ],
        grid: [cx.each_row(op.out), Count::Fixed(blocks), ONE],
        block: [32 * HEADS_EACH, 1, 1],
        shared: 0,
    });
    Ok(())
}
