//! `attn_prepare`: one launch for all heads, and what `kv_append` has in common with it.

use gemma4_core::abi::{self, CudaPrepareParams, HEADS_EACH};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::ops::attn_prepare::{AttnPrepare, Heads, OwnKeys, Values};
use gemma4_core::program::Act;

use super::{Arg, Count, Launch, Lowering, ONE, attention, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

/// Widest head that the kernels take.
const HEAD_MAX: usize = 512;

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

/// The keys and values that a layer makes of `raw`, behind `heads` query heads; arguments for their pools.
pub(super) fn params(
    (raw, own): (Act, Option<OwnKeys>),
    heads: Heads,
    eps: f32,
    cx: &Lowering<'_>,
) -> (CudaPrepareParams, [Arg; 2]) {
    let dim = narrow(heads.head_dim);
    let (q_heads, kv_heads) = (narrow(heads.heads), narrow(heads.kv_heads));
    let mut params = CudaPrepareParams {
        width: cx.cols(raw),
        dim,
        heads: q_heads,
        planes: cx.planes(raw),
        plane_stride: cx.plane_stride(raw),
        eps,
        ..CudaPrepareParams::default()
    };
    let Some(own) = own else { return (params, [Arg::Null, Arg::Null]) };
    let (k, v) = (cx.state(own.k).spec(), cx.state(own.v).spec());
    params.kv_heads = kv_heads;
    params.value_start = match own.values {
        Values::RawKeys => q_heads * dim,
        Values::Projected | Values::Plain => (q_heads + kv_heads) * dim,
    };
    params.plain = u32::from(own.values == Values::Plain);
    params.local = local(k.span);
    (params.k_kind, params.v_kind) = (kind(k.kv_type), kind(v.kv_type));
    (params, [Arg::State(own.k), Arg::State(own.v)])
}

/// Blocks that take all heads of a row.
pub(super) fn blocks(params: &CudaPrepareParams) -> Count {
    Count::Fixed((params.heads + 2 * params.kv_heads).div_ceil(HEADS_EACH))
}

/// What kernels that prepare heads themselves take of them, the pools that they store to included.
pub(super) fn raw(op: &AttnPrepare, cx: &Lowering<'_>) -> Vec<Arg> {
    let (params, [k, v]) = params((op.qkv, op.own), op.heads, op.eps, cx);
    let k_norm = op.own.map_or(Arg::Null, |own| Arg::Weight(own.k_norm));
    let [q_norm, frequency] = [op.q_norm, op.frequency].map(Arg::Weight);
    vec![Arg::Act(op.qkv), q_norm, k_norm, frequency, k, v, Arg::params(&params)]
}

pub(super) fn attn_prepare(op: &AttnPrepare, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    check_width(cx, "attn_prepare", op.heads.head_dim)?;
    let (mut params, [k, v]) = params((op.qkv, op.own), op.heads, op.eps, cx);
    // Attention reads queries through the first cache, which products leave alone.
    params.invites = u32::from(cx.behind_linear(1));
    let (unit, entry) =
        attention::known_heads(op, cx).map_or((unit(), "attn_prepare"), |unit| (unit, "attn_prepare__rows"));
    cx.launch(Launch {
        op: "attn_prepare",
        unit,
        entry,
        args: vec![
            Arg::Act(op.qkv),
            Arg::Weight(op.q_norm),
            op.own.map_or(Arg::Null, |own| Arg::Weight(own.k_norm)),
            Arg::Weight(op.frequency),
            Arg::Act(op.out),
            k,
            v,
            Arg::Rows,
            Arg::Tables,
            Arg::params(&params),
            Arg::Step,
        ],
        grid: [cx.each_row(op.out), blocks(&params), ONE],
        block: [32 * HEADS_EACH, 1, 1],
        shared: 0,
    });
    Ok(())
}
