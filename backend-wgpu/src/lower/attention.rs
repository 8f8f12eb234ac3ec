//! `attention`: by absolute splits of the keys in the decode class, by tiles of queries in the prefill class.

use gemma4_core::abi::{self, AttentionParams};
use gemma4_core::cache::PAGE;
use gemma4_core::ops::attention::{Attention, Mask, Reach};
use gemma4_core::program::{Act, Class};

use super::attn_prepare::{check_width, kind, local};
use super::{Bind, Count, Lowering, ONE, Scratch, narrow};
use crate::error::WgpuError;
use crate::shaders::{self, Part, Shader};

/// Keys of a split of global layers. Of 64, 128 and 256 the fastest on an H200 for most types and lengths: fewer keys
/// make more partial results, more leave much of the device idle at a few thousand tokens.
const GLOBAL_SPLIT: usize = 128;
/// Keys of a split of local layers: few, for a window has few and all of the device should work on them.
const LOCAL_SPLIT: usize = 64;
/// Most bytes of partial results at once, but for a single split.
const PARTIAL_BYTES: usize = 64 << 20;

/// Queries as the shaders read them: an activation, or what it was rotated to.
#[derive(Clone, Copy)]
enum Queries {
    Plain(Act),
    Rotated(Scratch),
}

impl Queries {
    fn bind(self) -> Bind {
        match self {
            Queries::Plain(act) => Bind::Act(act),
            Queries::Rotated(scratch) => Bind::Scratch(scratch),
        }
    }
}

pub(super) fn attention(op: &Attention, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let dim = op.heads.head_dim;
    check_width(cx, "attention", dim)?;
    let (k, v) = (cx.state(op.k), cx.state(op.v));
    let (rotated_keys, rotated_values) = (k.spec().kv_type.rotated(), v.spec().kv_type.rotated());
    let params = AttentionParams {
        heads: narrow(op.heads.heads),
        kv_heads: narrow(op.heads.kv_heads),
        group: narrow(op.heads.heads / op.heads.kv_heads),
        window: match op.mask {
            Mask::Causal => u32::MAX,
            Mask::Window(n) => narrow(n),
        },
        local: local(k.spec().span),
        reach: match op.reach {
            Reach::Own => 0,
            Reach::Before => 1,
            Reach::Block => 2,
        },
        k_stride: narrow(k.row_words() / 4),
        v_stride: narrow(v.row_words() / 4),
        ..AttentionParams::default()
    };
    let (k_kind, v_kind) = (kind(k.spec().kv_type), kind(v.spec().kv_type));
    let read = |parts: &[Part], entry| {
        Shader::new(parts, entry).with("K_KIND", k_kind).with("V_KIND", v_kind).with("DIM", narrow(dim))
    };
    let each_head = [Count::Fixed(params.heads), cx.each_row(op.out), ONE];
    let rotate = [shaders::ROTATE, shaders::ATTENTION_ROTATE];
    let mut q = Queries::Plain(op.q);
    if rotated_keys {
        let scratch = cx.scratch((cx.program.rows * op.heads.heads * dim * 4) as u64);
        let shader = Shader::new(&rotate, "attention__rotate").with("DIM", narrow(dim));
        cx.launch("attention", shader, vec![Bind::Act(op.q), Bind::ScratchMut(scratch)], &params, each_head);
        q = Queries::Rotated(scratch);
    }
    match cx.program.class {
        Class::Prefill => prefill(op, q, params, read, cx),
        Class::Decode => decode(op, q, params, read, cx),
    }
    if rotated_values {
        let shader = Shader::new(&rotate, "attention__unrotate").with("DIM", narrow(dim));
        cx.launch("attention", shader, vec![Bind::ActMut(op.out)], &params, each_head);
    }
    Ok(())
}

/// Invocations that share a row of values, eight each.
fn lanes(dim: usize) -> usize {
    (dim / 8).next_power_of_two()
}

fn prefill(
    op: &Attention,
    q: Queries,
    mut params: AttentionParams,
    read: impl Fn(&[Part], &'static str) -> Shader,
    cx: &mut Lowering<'_>,
) {
    let lanes = lanes(op.heads.head_dim);
    let memory = cx.device.limits.max_compute_workgroup_storage_size as usize;
    // Weights of a tile take 32 bytes for each invocation and key of it; see the shader for the rest.
    let (keys_each, groups) = if memory >= 32 << 10 { (2, 8) } else { (1, 4) };
    let groups = (abi::ROW_THREADS as usize / lanes).min(groups);
    params.tile_heads = params.group.min(narrow(8 * groups));
    params.tile_rows = narrow(8 * groups) / params.tile_heads;
    let head_tiles = params.group.div_ceil(params.tile_heads);
    let parts =
        [shaders::PAGES, shaders::KV_READ, shaders::ATTENTION_PREFILL_SUMS, shaders::ATTENTION_PREFILL];
    let shader = read(&parts, "attention__prefill")
        .with("THREADS", narrow(groups * lanes))
        .with("LANES", narrow(lanes))
        .with("KEYS_EACH", keys_each);
    let binds =
        vec![q.bind(), Bind::State(op.k), Bind::State(op.v), Bind::Rows, Bind::Tables, Bind::ActMut(op.out)];
    let grid = [cx.rows(op.out, params.tile_rows, 1), Count::Fixed(params.kv_heads * head_tiles), ONE];
    cx.launch("attention", shader, binds, &params, grid);
}

fn decode(
    op: &Attention,
    q: Queries,
    mut params: AttentionParams,
    read: impl Fn(&[Part], &'static str) -> Shader,
    cx: &mut Lowering<'_>,
) {
    let dim = op.heads.head_dim;
    let memory = cx.device.limits.max_compute_workgroup_storage_size as usize;
    let subgroups = cx.device.variants.subgroups;
    let mut lanes = lanes(dim).min(16);
    if subgroups {
        lanes = lanes.min(cx.device.subgroup as usize);
    }
    let (split, most) = match op.mask {
        Mask::Causal => (GLOBAL_SPLIT, cx.state(op.k).spec().pages * PAGE / GLOBAL_SPLIT),
        Mask::Window(n) => {
            let ahead = if op.reach == Reach::Block { (n - 1).min(cx.program.rows) } else { 0 };
            (LOCAL_SPLIT, (n - 1 + ahead).div_ceil(LOCAL_SPLIT) + 1)
        }
    };
    let bytes = |heads: usize| {
        (heads * dim * 4).max(8192) + heads * split * 4 + 1024 + if subgroups { 0 } else { 4096 }
    };
    let mut heads = (params.group as usize).next_power_of_two().min(8).min(lanes);
    while heads > 1 && bytes(heads) > memory {
        heads /= 2;
    }
    let rows = cx.program.rows;
    let each = rows * op.heads.heads * (dim + 4) * 4;
    let most = most.max(1);
    // Whole rounds of the strands, so that a split's strand does not depend on the dispatch that it is in.
    let strands = abi::COMBINE_STRANDS as usize;
    let chunk = most.min((PARTIAL_BYTES / each / strands).max(1) * strands);
    let pieces = dim.div_ceil(4 * abi::COMBINE_COLUMNS as usize);
    let carried = if chunk < most { rows * op.heads.heads * pieces } else { 0 };
    let partial = cx.scratch((each * chunk) as u64);
    let carried = cx.scratch((carried * strands * (1 + abi::COMBINE_COLUMNS as usize) * 16) as u64);
    let tiles = params.group.div_ceil(narrow(heads));
    let own = if subgroups { shaders::ATTENTION_SPLIT_SUBGROUPS } else { shaders::ATTENTION_SPLIT_CORE };
    let entry = if subgroups { "attention__split_subgroups" } else { "attention__split" };
    let splitting = read(&[shaders::PAGES, shaders::KV_READ, shaders::ATTENTION, own], entry)
        .with("SPLIT", narrow(split))
        .with("HEADS", narrow(heads))
        .with("LANES", narrow(lanes))
        .with("V_LANES", narrow(self::lanes(dim)));
    let combining = Shader::new(&[shaders::ATTENTION_COMBINE], "attention__combine")
        .with("DIM", narrow(dim))
        .with("SPLIT", narrow(split));
    let each_row = cx.each_row(op.out);
    params.splits = narrow(chunk);
    for first in (0..most).step_by(chunk) {
        params.first = narrow(first);
        let count =
            Count::Splits { keys: narrow(split), first: params.first, most: narrow(chunk.min(most - first)) };
        let binds = vec![
            q.bind(),
            Bind::State(op.k),
            Bind::State(op.v),
            Bind::Rows,
            Bind::Tables,
            Bind::ScratchMut(partial),
        ];
        let grid = [each_row, Count::Fixed(params.kv_heads * tiles), count];
        cx.launch("attention", splitting.clone(), binds, &params, grid);
        let binds = vec![Bind::Scratch(partial), Bind::Rows, Bind::ScratchMut(carried), Bind::ActMut(op.out)];
        let grid = [
            Count::Fixed(params.heads * narrow(pieces)),
            each_row,
            Count::AnySplit { keys: narrow(split), first: params.first },
        ];
        cx.launch("attention", combining.clone(), binds, &params, grid);
    }
}
