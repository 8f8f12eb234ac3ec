//! `attn_prepare` and `kv_append`: a dispatch for all heads, or, where bindings are few, one for the queries and one for the keys and
//! values that go to the cache.

use gemma4_core::abi::{self, PrepareParams};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::ops::attn_prepare::{AttnPrepare, Values};
use gemma4_core::ops::kv_append::KvAppend;

use super::{Bind, Count, Lowering, ONE, Scratch, narrow};
use crate::error::WgpuError;
use crate::shaders::{self, Shader};

/// Widest head that the shaders take.
const HEAD_MAX: usize = 512;

/// Storage buffers of `attn_prepare__both`.
const BOTH: u32 = 10;

/// What shaders know a stored type by.
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

/// Whether the shaders take heads of this width.
pub(super) fn check_width(cx: &Lowering<'_>, op: &str, dim: usize) -> Result<(), WgpuError> {
    if dim > HEAD_MAX || !dim.is_multiple_of(32) {
        let what = format!("{op} with heads of {dim} values, which are no multiple of 32,");
        let limit = "the widest head of the shaders";
        return Err(cx.device.limit(&what, dim as u64, "values", HEAD_MAX as u64, limit));
    }
    Ok(())
}

/// `values`: where the raw values are, if they do not follow the raw keys.
pub(super) fn attn_prepare(
    op: &AttnPrepare,
    values: Option<Scratch>,
    cx: &mut Lowering<'_>,
) -> Result<(), WgpuError> {
    let dim = op.heads.head_dim;
    check_width(cx, "attn_prepare", dim)?;
    let (heads, kv_heads) = (narrow(op.heads.heads), narrow(op.heads.kv_heads));
    let mut params = PrepareParams {
        width: cx.cols(op.qkv),
        dim: narrow(dim),
        heads,
        kv_heads,
        eps: op.eps,
        ..PrepareParams::default()
    };
    let shared = [cx.reduce(), shaders::EXACT, shaders::PAGES, shaders::ROTATE, shaders::KV_WRITE];
    let parts = [&shared[..], &[shaders::ATTN_PREPARE]].concat();
    let rows = cx.each_row(op.out);
    let mut common =
        [Bind::Act(op.qkv), Bind::Weight(op.q_norm, 0), Bind::Weight(op.frequency, 0), Bind::Rows];
    let both = op.own.is_some() && cx.device.limits.max_storage_buffers_per_shader_stage >= BOTH;
    if !both {
        let binds = [&common[..], &[Bind::ActMut(op.out)]].concat();
        let shader = cx.with_reduce(Shader::new(&parts, "attn_prepare__queries"));
        cx.launch("attn_prepare", shader, binds, &params, [Count::Fixed(heads), rows, ONE]);
    }

    let Some(own) = op.own else { return Ok(()) };
    let (k, v) = (cx.state(own.k), cx.state(own.v));
    params.value_start = match (values, own.values) {
        (Some(_), _) => 0,
        (None, Values::RawKeys) => heads * params.dim,
        (None, Values::Projected | Values::Plain) => (heads + kv_heads) * params.dim,
    };
    params.plain = u32::from(own.values == Values::Plain);
    params.local = local(k.spec().span);
    (params.k_stride, params.v_stride) = (narrow(k.row_words()), narrow(v.row_words()));
    let kinds = [k, v].map(|state| kind(state.spec().kv_type));
    let values = values.map_or(Bind::Act(op.qkv), Bind::Scratch);
    let pools = [Bind::Tables, Bind::StateMut(own.k), Bind::StateMut(own.v), values];
    let (entry, workgroups, more) = if both {
        let more = vec![Bind::ActMut(op.out), Bind::Weight(own.k_norm, 0)];
        ("attn_prepare__both", heads + 2 * kv_heads, more)
    } else {
        common[1] = Bind::Weight(own.k_norm, 0);
        ("attn_prepare__cache", 2 * kv_heads, vec![])
    };
    let shader = cx.with_reduce(Shader::new(&parts, entry));
    let shader = shader.with("K_KIND", kinds[0]).with("V_KIND", kinds[1]);
    let binds = [&common[..], &pools, &more].concat();
    cx.launch("attn_prepare", shader, binds, &params, [Count::Fixed(workgroups), rows, ONE]);
    Ok(())
}

/// The heads that go to the cache, without queries before them.
pub(super) fn kv_append(op: &KvAppend, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    check_width(cx, "kv_append", op.head_dim)?;
    let own = op.own;
    let (k, v) = (cx.state(own.k), cx.state(own.v));
    let (dim, kv_heads) = (narrow(op.head_dim), narrow(op.kv_heads));
    let params = PrepareParams {
        width: cx.cols(op.kv),
        dim,
        heads: 0,
        kv_heads,
        value_start: if own.values == Values::RawKeys { 0 } else { kv_heads * dim },
        local: local(k.spec().span),
        k_stride: narrow(k.row_words()),
        v_stride: narrow(v.row_words()),
        eps: op.eps,
        plain: u32::from(own.values == Values::Plain),
    };
    let kinds = [k, v].map(|state| kind(state.spec().kv_type));
    let parts = [
        cx.reduce(),
        shaders::EXACT,
        shaders::PAGES,
        shaders::ROTATE,
        shaders::KV_WRITE,
        shaders::ATTN_PREPARE,
        shaders::KV_APPEND,
    ];
    let shader = cx.with_reduce(Shader::new(&parts, "kv_append"));
    let shader = shader.with("K_KIND", kinds[0]).with("V_KIND", kinds[1]);
    let binds = vec![
        Bind::Act(op.kv),
        Bind::Weight(own.k_norm, 0),
        Bind::Weight(op.frequency, 0),
        Bind::Rows,
        Bind::Tables,
        Bind::StateMut(own.k),
        Bind::StateMut(own.v),
        Bind::Act(op.kv),
    ];
    cx.launch("kv_append", shader, binds, &params, [Count::Fixed(2 * kv_heads), cx.each_row(op.kv), ONE]);
    Ok(())
}
