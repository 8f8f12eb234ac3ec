//! `linear`: a launch for each run of up to three weights of one type, unless NVIDIA's library does it ([`library`]).

use gemma4_core::abi::{CudaLinearParams, PREPARED_BLOCK};
use gemma4_core::ops::Op;
use gemma4_core::ops::glu::Glu;
use gemma4_core::ops::linear::Linear;
use gemma4_core::program::{Class, Weight};
use gemma4_core::tensor::DType;

use super::prepared::{HALVES, digits};
use super::{Arg, Count, Launch, Lowering, ONE, glu, library, narrow, planes, prepare};
use crate::driver::DeviceInfo;
use crate::error::CudaError;
use crate::kernels::Unit;
use crate::weights::layout::{Form, Scales};

/// Warps of a block, each with 16 outputs.
const WARPS: u32 = 4;
/// Warps that keep the memory of a large GPU busy.
const ENOUGH: u32 = 2048;
/// Fewest blocks of 256 columns that are worth a warp of their own.
const FEWEST: u32 = 2;
/// Most weights of a launch.
const STACK: usize = 3;
/// Rows and outputs of a tile of prompts.
pub(super) const TILE: u32 = 128;

const FILE: &str = "linear";
const TILES: &str = "linear_tiles";
const GATED: &str = "linear_glu";

/// A file compiled for one type of weight.
pub(super) fn unit(file: &'static str, dtype: DType) -> Unit {
    Unit::new(file).with("WEIGHT", dtype.name())
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    let of_type = |dtype| {
        [Kind::Parts, Kind::Long, Kind::OneBlock]
            .map(|kind| product_unit(dtype, kind))
            .into_iter()
            .chain([unit(TILES, dtype)])
    };
    DType::ALL.into_iter().flat_map(of_type).collect()
}

/// Products of few rows.
fn product_unit(dtype: DType, kind: Kind) -> Unit {
    match kind {
        Kind::Parts => unit(FILE, dtype).with("LONG", "0"),
        Kind::Long => unit(FILE, dtype).with("LONG", "1"),
        Kind::OneBlock => unit(GATED, dtype),
    }
}

/// Whether the op reads its input in the form of products.
pub(super) fn reads_prepared(op: &Linear, cx: &Lowering<'_>) -> bool {
    !library::takes(op, cx)
}

/// Whether products of few rows take halves of values: where the weight is no code.
pub(super) fn takes_halves(weight: &crate::Weight) -> bool {
    Form::of(weight.dtype()).scales == Scales::Row
}

/// Tiles of 16 outputs.
fn tiles(cx: &Lowering<'_>, weight: Weight) -> u32 {
    narrow(cx.weight(weight).rows()).div_ceil(16)
}

/// In how many parts, at most `most`, the columns are summed up, each by other warps: by the shape.
pub(super) fn splits(tiles: u32, cols: u32, most: u32) -> u32 {
    (ENOUGH / tiles.max(1)).clamp(1, most).min(cols.div_ceil(256) / FEWEST).max(1)
}

/// How a launch shares out the steps of its groups of tiles: by its shape, the device, and which ops read the output. Rows keep
/// their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shares {
    /// A block for each of so many parts of a group.
    Parts(u32),
    /// Equal shares for so many blocks, across groups.
    Long(u32),
}

/// Which kernels a product of few rows has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of parts of groups.
    Parts,
    /// Of equal shares.
    Long,
    /// Of rows of one block of columns, which are computed where they are multiplied.
    OneBlock,
}

/// Fewest steps of a block for which equal shares pay: blocks with them take longer to begin and end.
///
/// A group a block, 31B's gate and up have 672 blocks, of which an H200 has 660 at once: the other twelve took a fourth of the
/// launch's time, alone. Tokens a second of one row there, and microseconds of 8 rows:
///
/// | fewest steps | 31B, 8 rows | E4B   | E2B   | 26B-A4B |
/// |--------------|-------------|-------|-------|---------|
/// | never        | 159.4, 8645 | 473.9 | 659.9 | 552.9   |
/// | 12           | 164.4, 7925 | 474.3 | 660.0 | 553.1   |
/// | 6            | 161.8       | 452.8 | 647.3 | 552.9   |
const LONG: u32 = 12;

/// The size of a launch.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Of 16 outputs.
    tiles: u32,
    cols: u32,
    /// In which a block goes through the columns.
    steps: u32,
}

impl Extent {
    fn of(cx: &Lowering<'_>, weights: &[Weight]) -> Self {
        let weight = cx.weight(weights[0]);
        let of_step = if takes_halves(weight) { 64 } else { 256 };
        let tiles = weights.iter().map(|&weight| tiles(cx, weight)).sum();
        let cols = narrow(weight.cols());
        Self { tiles, cols, steps: cols.div_ceil(of_step) }
    }

    /// Of four tiles, one for each warp.
    fn groups(self) -> u32 {
        self.tiles.div_ceil(WARPS)
    }

    /// With at most `most` planes of its output.
    fn shares(self, most: u32, device: &DeviceInfo) -> Shares {
        let groups = self.groups();
        // As many blocks as there are at once, with 16 rows too.
        let blocks = (device.multiprocessors * device.kernels.product_blocks()).min(groups * (most - 1));
        let all = groups.checked_mul(self.steps).filter(|all| all.checked_mul(blocks + 1).is_some());
        match all {
            Some(all) if most > 1 && blocks > 0 && all / blocks >= LONG => Shares::Long(blocks),
            _ => Shares::Parts(splits(self.tiles, self.cols, most)),
        }
    }

    /// Most blocks that have a part of the same group.
    fn planes(self, shares: Shares) -> u32 {
        let (groups, steps) = (self.groups(), self.steps);
        match shares {
            Shares::Parts(parts) => parts,
            Shares::Long(blocks) => {
                let owner = |step: u32| ((step + 1) * blocks - 1) / (groups * steps);
                let of_group = |group: u32| owner(group * steps + steps - 1) - owner(group * steps) + 1;
                (0..groups).map(of_group).max().unwrap_or(1)
            }
        }
    }
}

/// The weights of a launch: those of the first one's type, at most three. What is left of the array repeats the first.
fn run(cx: &Lowering<'_>, weights: &[Weight]) -> (usize, [Weight; STACK]) {
    let dtype = cx.weight(weights[0]).dtype();
    let count = weights.iter().take(STACK).take_while(|&&w| cx.weight(w).dtype() == dtype).count();
    (count, std::array::from_fn(|i| if i < count { weights[i] } else { weights[0] }))
}

/// Bytes of dynamic shared memory of a block of tiles: `TileMemory` of `kernels/common/tiles.cuh`.
pub(super) fn tile_memory(dtype: DType) -> u32 {
    let Form { bits, extra, scales } = Form::of(dtype);
    let (chunk, block) = match scales {
        Scales::Row => (0, 0),
        Scales::Half => (64, 0),
        Scales::HalfMin => (128, 0),
        Scales::SixBit => (0, 256),
        Scales::Byte16 => (0, 256 + 32),
        Scales::Byte32 => (0, 128 + 32),
        Scales::Nibble => (0, 256 + 64),
    };
    let stage = 8 * (128 * narrow(bits + extra) + chunk) + 16_384;
    let heads = 2 * 8 * block;
    let depth = [4, 3].into_iter().find(|depth| depth * stage + heads <= 98_304).unwrap_or(2);
    depth * stage + heads
}

/// Bytes of dynamic shared memory of a block of products with up to `rows` rows: `ProductMemory` of
/// `kernels/common/product_feed.cuh`.
pub(super) fn product_memory(dtype: DType, rows: u32, kind: Kind, device: &DeviceInfo) -> u32 {
    let Form { bits, extra, scales } = Form::of(dtype);
    // Of a step, which is four chunks unless values are halves.
    let (chunks, factors) = match scales {
        Scales::Row => (1, 0),
        Scales::Half | Scales::SixBit => (4, 256),
        Scales::HalfMin => (4, 512),
        Scales::Byte16 => (4, 256 + 32),
        Scales::Byte32 => (4, 128 + 32),
        Scales::Nibble => (4, 256 + 64),
    };
    let halves = scales == Scales::Row;
    let of_row = if halves { 256 + 16 } else { digits(device.exact) };
    let stage = WARPS * (chunks * 128 * narrow(bits + extra) + factors) + rows * of_row;
    let large = device.kernels.has_large_shared_memory();
    let most = match rows {
        _ if kind == Kind::Long => of_16(large),
        ..=1 => 42_496,
        2..=4 => 48_128,
        5..=8 if large => 57_088,
        _ => of_16(large),
    };
    let stages = match kind {
        Kind::OneBlock if halves => 4,
        Kind::OneBlock => 2,
        Kind::Parts if !halves => 4,
        Kind::Parts | Kind::Long => 6,
    };
    let room = if kind == Kind::OneBlock && halves { rows * (digits(device.exact) + HALVES) } else { 0 };
    (most / stage).clamp(2, stages) * stage + room
}

/// Of blocks for 16 rows, three or two of which a multiprocessor has.
fn of_16(large: bool) -> u32 {
    if large { 76_288 } else { 50_176 }
}

/// The most planes that the output may have.
fn most_planes(op: &Linear, cx: &Lowering<'_>) -> u32 {
    if cx.program.class == Class::Decode { planes::most(cx, op.out, cx.next) } else { 1 }
}

/// What all launches of the op have in common.
fn params(op: &Linear, extent: Extent, cx: &Lowering<'_>) -> CudaLinearParams {
    CudaLinearParams {
        out_cols: cx.cols(op.out),
        plane_stride: cx.plane_stride(op.out),
        picked: cx.picked(op.x),
        groups: extent.groups(),
        ..CudaLinearParams::default()
    }
}

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    if library::takes(op, cx) {
        library::linear(op, cx);
        return Ok(());
    }
    prepare::prepare("linear", op.x, cx);
    let most = most_planes(op, cx);
    let mut launches = Vec::new();
    let mut rest = &op.weights[..];
    while !rest.is_empty() {
        let (these, after) = rest.split_at(run(cx, rest).0);
        let extent = Extent::of(cx, these);
        launches.push((these, extent, extent.shares(most, cx.device)));
        rest = after;
    }
    let planes = launches.iter().map(|(_, extent, shares)| extent.planes(*shares)).max().unwrap_or(1);
    cx.set_planes(op.out, planes);
    let mut first = 0;
    for (these, extent, shares) in launches {
        let (count, stack) = run(cx, these);
        let dtype = cx.weight(these[0]).dtype();
        let params = CudaLinearParams { first, weights: narrow(count), planes, ..params(op, extent, cx) };
        first += these.iter().map(|&weight| narrow(cx.weight(weight).rows())).sum::<u32>();
        let args =
            vec![Arg::Prepared(op.x), Arg::Views(stack), Arg::Act(op.out), Arg::params(&params), Arg::Step];
        let launch = if cx.split() {
            let (blocks, kind) = match shares {
                Shares::Parts(parts) => ([extent.groups(), parts], Kind::Parts),
                Shares::Long(blocks) => ([blocks, 1], Kind::Long),
            };
            launch(op, dtype, kind, blocks, args, cx)
        } else {
            let groups = these.iter().map(|&weight| tiles(cx, weight).div_ceil(TILE / 16)).sum();
            let grid = [cx.rows(op.x, TILE, 1), Count::Fixed(groups), ONE];
            let (unit, shared) = (unit(TILES, dtype), tile_memory(dtype));
            Launch { op: "linear", unit, entry: "linear__tiles", args, grid, block: [256, 1, 1], shared }
        };
        cx.launch(launch);
    }
    Ok(())
}

/// A launch of a product of few rows by so many blocks.
fn launch(
    op: &Linear,
    dtype: DType,
    kind: Kind,
    blocks: [u32; 2],
    args: Vec<Arg>,
    cx: &Lowering<'_>,
) -> Launch {
    let gates = kind == Kind::OneBlock;
    let (entry, rows) = match cx.program.capacity(op.x) {
        ..=1 => (if gates { "linear__glu_1" } else { "linear__1" }, 1),
        2..=4 => (if gates { "linear__glu_4" } else { "linear__4" }, 4),
        5..=8 => (if gates { "linear__glu_8" } else { "linear__8" }, 8),
        _ => (if gates { "linear__glu_16" } else { "linear__16" }, 16),
    };
    let [x, y] = blocks.map(Count::Fixed);
    Launch {
        op: "linear",
        unit: product_unit(dtype, kind),
        entry,
        args,
        grid: [x, y, cx.rows(op.x, rows, 1)],
        block: [32 * WARPS, 1, 1],
        shared: product_memory(dtype, rows, kind, cx.device),
    }
}

/// Whether the next op is a product of few rows by the kernels of this file, which read activations past the first cache: so it may
/// begin while the kernel that wrote others to the same memory still runs.
pub(super) fn next_copies(cx: &Lowering<'_>) -> bool {
    matches!(cx.program.ops.get(cx.next), Some(Op::Linear(op)) if cx.split() && !library::takes(op, cx))
}

/// Whether the next op is a product whose blocks may begin beside those of the product in front of the launch that is being
/// lowered: they fill the device, wherever they are put.
///
/// Blocks that begin so early are put where there is room, and copy their weights. Tokens a second of one row on an H200, where
/// norms in front of one kind of product let it begin:
///
/// |                                      | 31B   | 26B-A4B | E4B   | E2B   |
/// |--------------------------------------|-------|---------|-------|-------|
/// | none                                 | 166.0 | 590.2   | 504.1 | 694.3 |
/// | up to a block for a multiprocessor   |       | 590.4   | 501.5 | 696.6 |
/// | more, up to two                      |       | 590.4   | 504.3 | 693.7 |
/// | more                                 |       | 581.8   | 502.8 | 698.9 |
/// | equal shares, and every `glu`        | 171.3 |         |       |       |
///
/// 31B has products of equal shares alone behind norms, the others none.
pub(super) fn next_fills_device(cx: &Lowering<'_>) -> bool {
    let Some(Op::Linear(op)) = cx.program.ops.get(cx.next) else { return false };
    let extent = || Extent::of(cx, &op.weights[..run(cx, &op.weights).0]);
    let planes = || planes::most(cx, op.out, cx.next + 1);
    cx.program.class == Class::Decode
        && !library::takes(op, cx)
        && matches!(extent().shares(planes(), cx.device), Shares::Long(_))
}

/// Whether the op is one launch, which computes a gated unit of one block of columns that nobody else reads, and that it can
/// read four at once. Blocks read what is gated while others write the output.
pub(super) fn gates(glu: &Glu, op: &Linear, cx: &Lowering<'_>) -> bool {
    cx.program.class == Class::Decode
        && op.x == glu.out
        && cx.cols(glu.out) <= PREPARED_BLOCK
        && glu::has_quads(&glu::params(glu, cx))
        && cx.users(glu.out) == 2
        && !cx.program.outputs.contains(&glu.out)
        && ![glu.gate.act, glu.up.act].contains(&op.out)
        && !library::takes(op, cx)
        && run(cx, &op.weights).0 == op.weights.len()
        && Extent::of(cx, &op.weights).shares(most_planes(op, cx), cx.device) == Shares::Parts(1)
}

/// Both ops.
pub(super) fn glu_linear(glu: &Glu, op: &Linear, cx: &mut Lowering<'_>) {
    cx.set_planes(op.out, 1);
    let extent = Extent::of(cx, &op.weights);
    let (count, stack) = run(cx, &op.weights);
    let args = vec![
        Arg::Act(glu.gate.act),
        Arg::Act(glu.up.act),
        Arg::params(&glu::params(glu, cx)),
        Arg::Views(stack),
        Arg::Act(op.out),
        Arg::params(&CudaLinearParams { weights: narrow(count), planes: 1, ..params(op, extent, cx) }),
        Arg::Step,
    ];
    let dtype = cx.weight(op.weights[0]).dtype();
    let launch = launch(op, dtype, Kind::OneBlock, [extent.groups(), 1], args, cx);
    cx.launch(launch);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_as_many_as_blocks_have_a_part_of_a_group() {
        for groups in 1..24 {
            for steps in 1..24 {
                let extent = Extent { tiles: groups * WARPS, cols: 256 * steps, steps };
                let all = groups * steps;
                for blocks in 1..=all {
                    let begins = |block: u32| all * block / blocks;
                    // What the kernel does: a block has the steps from where it begins to where the next one does.
                    let of_group = |group: u32| {
                        let [first, end] = [group, group + 1].map(|group| group * steps);
                        let has = |block: &u32| begins(*block) < end && begins(block + 1) > first;
                        u32::try_from((0..blocks).filter(has).count()).expect("few")
                    };
                    let want = (0..groups).map(of_group).max();
                    assert_eq!(Some(extent.planes(Shares::Long(blocks))), want, "{extent:?} by {blocks}");
                }
            }
        }
    }
}
