//! `attention`: by parts of the keys in the decode class, by tiles of rows in the prefill class, and by a slow kernel where
//! neither takes the heads or the stored types.

use gemma4_core::abi::{self, CudaAttentionParams};
use gemma4_core::kv_type::KvType;
use gemma4_core::ops::Op;
use gemma4_core::ops::attention::{Attention, Mask, Reach};
use gemma4_core::ops::attn_prepare::AttnPrepare;
use gemma4_core::program::Class;

use super::attn_prepare::{self, check_width, kind, local};
use super::{Arg, Count, Launch, Lowering, ONE, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

/// Stored types of the fast kernels, by the names that kernels have for them.
const KINDS: [(KvType, &str); 4] = [
    (KvType::F16, "KV_F16"),
    (KvType::Q8_0, "KV_Q8_0"),
    (KvType::Q4_0, "KV_Q4_0"),
    (KvType::TQ3_0, "KV_TQ3_0"),
];
/// Widths of heads of the fast kernels.
const DIMS: [u32; 3] = [128, 256, 512];
/// Most parts of a row's keys: their sums must fit two rounds of at most 32.
const SPLITS_MAX: u32 = 320;

/// Blocks of several rows for each that the device has at once. Those of later rounds begin where others end, so work that is a
/// little more than one round does not take two; many more would take longer to find that there is none.
const ROUNDS: u32 = 4;

/// A head width and two stored types that the fast kernels are compiled for.
#[derive(Clone, Copy, Debug)]
struct Shape {
    dim: u32,
    k: usize,
    v: usize,
}

impl Shape {
    /// All of them. Types that differ are for widths of real models.
    fn all() -> impl Iterator<Item = Self> {
        let kinds = 0..KINDS.len();
        DIMS.into_iter()
            .flat_map(move |dim| kinds.clone().map(move |k| (dim, k)))
            .flat_map(|(dim, k)| (0..KINDS.len()).map(move |v| Self { dim, k, v }))
            .filter(|shape| shape.dim >= 256 || shape.k == shape.v)
    }

    fn find(dim: u32, k: KvType, v: KvType) -> Option<Self> {
        Self::all().find(|shape| shape.dim == dim && KINDS[shape.k].0 == k && KINDS[shape.v].0 == v)
    }

    fn unit(self, file: &'static str) -> Unit {
        Unit::new(file)
            .with("DIM", self.dim.to_string())
            .with("K_KIND", KINDS[self.k].1)
            .with("V_KIND", KINDS[self.v].1)
    }

    fn prompt_unit(self, exact: bool) -> Unit {
        self.unit("attention_prefill").with("EXACT", if exact { "1" } else { "0" })
    }

    fn warps(self) -> u32 {
        self.dim / 64
    }

    /// Keys of a tile.
    fn keys(self) -> u32 {
        16 * self.warps()
    }

    /// Bytes of a chunk of 16 tokens by 64 values: `CHUNK` of the kernel.
    fn chunk(self) -> u32 {
        let bytes = |kind: usize| match KINDS[kind].0 {
            KvType::F32 | KvType::F16 => 2048,
            KvType::Q8_0 => 1024 + 64,
            KvType::Q4_0 => 512 + 64,
            KvType::TQ3_0 => 384 + 32,
        };
        bytes(self.k).max(bytes(self.v))
    }

    /// `MANY_TILES` of the kernel.
    fn many_tiles(self) -> u32 {
        if self.dim == 512 { 2 } else { 4 }
    }

    /// `WIDE_TILES` of the kernel.
    fn wide_tiles(self) -> u32 {
        match [self.k, self.v].map(|kind| KINDS[kind].0) {
            [KvType::Q8_0, KvType::F16] | [KvType::F16, KvType::Q8_0] => 4,
            [KvType::TQ3_0, v] if v != KvType::TQ3_0 => 4,
            _ => 8,
        }
    }

    /// `MANY_STAGES` of the kernel.
    fn many_stages(self) -> u32 {
        match self.chunk() {
            2048.. => 3,
            1024.. => 6,
            _ => 8,
        }
    }

    /// `ONE_STAGES` of the kernel.
    fn one_stages(self) -> u32 {
        if self.chunk() >= 2048 { 4 } else { self.many_stages() }
    }

    /// Bytes of dynamic shared memory of a block with so many tiles of columns: queries, weights, chunks.
    fn shared(self, tiles: u32, stages: u32, exact: bool) -> u32 {
        let tile = if exact { 512 } else { 256 };
        (self.dim / 16 + self.warps()) * tiles * tile + self.warps() * stages * self.chunk()
    }
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    let of_shape =
        |shape: Shape| [shape.unit("attention"), shape.prompt_unit(false), shape.prompt_unit(true)];
    std::iter::once(Unit::new("attention_any")).chain(Shape::all().flat_map(of_shape)).collect()
}

/// What kernels know of the op, and the fast kernels for it if there are any.
fn parameters(op: &Attention, cx: &Lowering<'_>) -> (CudaAttentionParams, Option<Shape>) {
    let (k, v) = (cx.state(op.k).spec(), cx.state(op.v).spec());
    let (heads, kv_heads) = (narrow(op.heads.heads), narrow(op.heads.kv_heads));
    let params = CudaAttentionParams {
        heads,
        kv_heads,
        group: heads / kv_heads,
        window: match op.mask {
            Mask::Causal => u32::MAX,
            Mask::Window(n) => narrow(n),
        },
        local: local(k.span),
        reach: match op.reach {
            Reach::Own => 0,
            Reach::Before => 1,
            Reach::Block => 2,
        },
        k_kind: kind(k.kv_type),
        v_kind: kind(v.kv_type),
        dim: narrow(op.heads.head_dim),
        ..CudaAttentionParams::default()
    };
    let shape = Shape::find(params.dim, k.kv_type, v.kv_type);
    (params, shape.filter(|shape| params.group <= 8 * shape.many_tiles()))
}

pub(super) fn attention(op: &Attention, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    check_width(cx, "attention", op.heads.head_dim)?;
    if (op.mask, op.reach) == (Mask::Window(1), Reach::Before) {
        return Err(cx.unsupported("attention", "queries see no key at all"));
    }
    let (params, shape) = parameters(op, cx);
    match (shape, cx.program.class) {
        (None, _) => any(op, &params, cx),
        (Some(shape), Class::Decode) => decode(op, None, shape, params, cx),
        (Some(shape), Class::Prefill) => prefill(op, shape, params, cx),
    }
    Ok(())
}

/// The unit with a kernel of `attn_prepare` that knows the width of the heads and the types that they are stored as; where none are
/// stored, those of the attention behind.
pub(super) fn known_heads(prepare: &AttnPrepare, cx: &Lowering<'_>) -> Option<Unit> {
    let pools = match (prepare.own, cx.program.ops.get(cx.next)) {
        (Some(own), _) => [own.k, own.v],
        (None, Some(Op::Attention(op))) => [op.k, op.v],
        (None, _) => return None,
    };
    let [k, v] = pools.map(|pool| cx.state(pool).spec().kv_type);
    let shape = Shape::find(narrow(prepare.heads.head_dim), k, v)?;
    (cx.program.class == Class::Decode).then(|| shape.unit("attention"))
}

/// Whether the kernel of a single row prepares the heads itself.
///
/// It copies keys before the launch in front of it is done. That one must store none, and the ones before it are done by
/// then (`kernels/common/chain.cuh`).
pub(super) fn prepares(prepare: &AttnPrepare, op: &Attention, cx: &Lowering<'_>) -> bool {
    let ops = &cx.program.ops;
    let users = ops.iter().filter(|other| other.reads().contains(&op.q) || other.writes().contains(&op.q));
    let (params, shape) = parameters(op, cx);
    prepare.out == op.q
        && prepare.heads == op.heads
        && users.count() == 2
        && !cx.program.outputs.contains(&op.q)
        && (cx.program.class, cx.program.rows) == (Class::Decode, 1)
        && (shape.is_some() && params.group <= 8)
        && cx.behind_linear(2)
        && op.reach != Reach::Block
        && prepare.own.is_none_or(|own| (own.k, own.v, op.reach) == (op.k, op.v, Reach::Own))
}

/// Both ops in one launch.
pub(super) fn attn_prepare_attention(
    prepare: &AttnPrepare,
    op: &Attention,
    cx: &mut Lowering<'_>,
) -> Result<(), CudaError> {
    let (params, shape) = parameters(op, cx);
    let Some(shape) = shape else { return Err(cx.unsupported("attention", "no kernel takes these heads")) };
    decode(op, Some(prepare), shape, params, cx);
    Ok(())
}

/// Where a kernel writes its results: plain, prepared for a product, or both.
fn results(op: &Attention, cx: &mut Lowering<'_>) -> [Arg; 2] {
    // Blocks of 256 columns belong to one head.
    let prepared = op.heads.head_dim >= 256 && cx.wants_prepared(op.out);
    let plain = if cx.wants_plain(op.out) || !prepared { Arg::Act(op.out) } else { Arg::Null };
    if prepared {
        cx.set_prepared(op.out);
    }
    [plain, if prepared { Arg::Prepared(op.out) } else { Arg::NoPrepared }]
}

fn any(op: &Attention, params: &CudaAttentionParams, cx: &mut Lowering<'_>) {
    cx.launch(Launch {
        op: "attention",
        unit: Unit::new("attention_any"),
        entry: "attention__any",
        args: vec![
            Arg::Act(op.q),
            Arg::State(op.k),
            Arg::State(op.v),
            Arg::Act(op.out),
            Arg::Rows,
            Arg::Tables,
            Arg::params(params),
            Arg::Step,
        ],
        grid: [cx.each_row(op.out), Count::Fixed(params.heads), ONE],
        block: [abi::PAGE, 1, 1],
        shared: 0,
    });
}

fn prefill(op: &Attention, shape: Shape, mut params: CudaAttentionParams, cx: &mut Lowering<'_>) {
    let exact = cx.device.exact;
    let stages = shape.many_stages();
    let bytes = |tiles| shape.shared(tiles, stages, exact);
    // Wide tiles read keys half as often. Where they leave room for a single small block, two narrow ones are faster.
    let room = if shape.dim == 512 { cx.device.shared } else { cx.device.shared / 2 };
    let (entry, tiles) = if exact {
        ("attention__prefill", shape.many_tiles())
    } else if bytes(shape.wide_tiles()) + 4096 <= room {
        ("attention__prefill_wide", shape.wide_tiles())
    } else {
        ("attention__prefill", 4)
    };
    params.tile_rows = 8 * tiles / params.group;
    let [plain, prepared] = results(op, cx);
    cx.launch(Launch {
        op: "attention",
        unit: shape.prompt_unit(exact),
        entry,
        args: vec![
            Arg::Act(op.q),
            Arg::State(op.k),
            Arg::State(op.v),
            plain,
            prepared,
            Arg::Rows,
            Arg::Tables,
            Arg::params(&params),
            Arg::Step,
        ],
        grid: [cx.rows(op.out, params.tile_rows, 1), Count::Fixed(params.kv_heads), ONE],
        block: [32 * shape.warps(), 1, 1],
        shared: bytes(tiles),
    });
}

/// `prepare` is the op in front of it where its kernel is this one.
fn decode(
    op: &Attention,
    prepare: Option<&AttnPrepare>,
    shape: Shape,
    mut params: CudaAttentionParams,
    cx: &mut Lowering<'_>,
) {
    let rows = narrow(cx.program.rows);
    let alone = rows == 1 && params.group <= 8;
    let one = shape.shared(1, shape.one_stages(), true);
    let (entry, tiles, shared) = if alone {
        (if prepare.is_some() { "attn_prepare__attention" } else { "attention" }, 1, one)
    } else {
        let tiles = shape.many_tiles();
        ("attention__rows", tiles, shape.shared(tiles, shape.many_stages(), true))
    };
    params.tile_rows = if alone { 1 } else { 8 * tiles / params.group };

    // As many parts as the device runs at once for one row, whatever the number of rows: a row's result depends on them.
    // Registers for two blocks of the largest heads are there with one type alone: `OWN_RESIDENT` of the kernel.
    let by_registers = if shape.dim == 512 && shape.k != shape.v { 1 } else { 16 / shape.warps() };
    let resident = (cx.device.shared / (one + 2048)).clamp(1, by_registers);
    let parts = cx.device.multiprocessors * resident / params.kv_heads;
    // Kernels of several rows have twice the registers.
    params.resident = cx.device.multiprocessors * resident.div_ceil(2);
    let most = match op.mask {
        Mask::Causal => SPLITS_MAX,
        Mask::Window(n) => {
            let ahead = if op.reach == Reach::Block { (n - 1).min(cx.program.rows) } else { 0 };
            narrow(n + ahead).div_ceil(shape.keys()).min(SPLITS_MAX)
        }
    };
    params.splits = parts.clamp(1, most);
    // Few records are added up in one round: number / fan is then 0 for all of them.
    let few = params.splits + 2 <= 24 && shape.dim <= 256;
    params.fan = if few { u32::MAX } else { (params.splits + 2).isqrt() + 1 };

    let head_records = u64::from(rows * params.heads) * u64::from(params.splits + 1);
    let records = cx.scratch(head_records * u64::from(shape.dim / 4 + 1) * 16);
    let counters = u64::from(rows * params.kv_heads) * u64::from(params.splits / params.fan + 4);
    let arrived = cx.kept(counters * 4, true);
    let [plain, prepared] = results(op, cx);
    let mut args = prepare.map_or_else(|| vec![Arg::Act(op.q)], |prepare| attn_prepare::raw(prepare, cx));
    args.extend([
        Arg::State(op.k),
        Arg::State(op.v),
        plain,
        prepared,
        Arg::Scratch(records),
        Arg::Scratch(arrived),
        Arg::Rows,
        Arg::Tables,
        Arg::params(&params),
        Arg::Step,
    ]);
    let grid = if alone {
        [params.kv_heads, params.splits + 2, 1]
    } else {
        [(ROUNDS * params.resident).min(rows * params.kv_heads * (params.splits + 2)), 1, 1]
    };
    cx.launch(Launch {
        op: "attention",
        unit: shape.unit("attention"),
        entry,
        args,
        grid: grid.map(Count::Fixed),
        block: [32 * shape.warps(), 1, 1],
        shared,
    });
}
