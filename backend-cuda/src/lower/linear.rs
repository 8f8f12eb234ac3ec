//! `linear`: a launch for each run of up to three weights of one type, unless NVIDIA's library does it ([`library`]).

use gemma4_core::abi::CudaLinearParams;
use gemma4_core::ops::linear::Linear;
use gemma4_core::program::{Class, Weight};
use gemma4_core::tensor::DType;

use super::prepared::digits;
use super::{Arg, Count, Launch, Lowering, ONE, library, narrow, planes, prepare};
use crate::driver::DeviceInfo;
use crate::error::CudaError;
use crate::kernels::Unit;
use crate::weights::layout::{Form, Scales};

/// Warps of a block, each with 16 outputs.
const WARPS: u32 = 4;
/// Warps that keep the memory of a large GPU busy.
const ENOUGH: u32 = 2048;
/// Most planes of an output.
const PLANES: u32 = 8;
/// Fewest blocks of 256 columns that are worth a warp of their own.
const FEWEST: u32 = 2;
/// Most weights of a launch.
const STACK: usize = 3;
/// Rows and outputs of a tile of prompts.
pub(super) const TILE: u32 = 128;

const FILE: &str = "linear";
const TILES: &str = "linear_tiles";

/// A file compiled for one type of weight.
pub(super) fn unit(file: &'static str, dtype: DType) -> Unit {
    Unit::new(file).with("WEIGHT", dtype.name())
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    DType::ALL.into_iter().flat_map(|dtype| [unit(FILE, dtype), unit(TILES, dtype)]).collect()
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

/// In how many parts the columns are summed up, each by other warps: by the shape alone.
pub(super) fn splits(tiles: u32, cols: u32) -> u32 {
    (ENOUGH / tiles.max(1)).clamp(1, PLANES).min(cols.div_ceil(256) / FEWEST).max(1)
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
/// `kernels/common/product.cuh`.
pub(super) fn product_memory(dtype: DType, rows: u32, device: &DeviceInfo) -> u32 {
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
    let of_rows = if scales == Scales::Row { 0 } else { rows * digits(device.exact) };
    let stage = WARPS * (chunks * 128 * narrow(bits + extra) + factors) + of_rows;
    let most = match rows {
        ..=1 => 41_984,
        2..=4 => 48_128,
        _ if !device.kernels.has_large_shared_memory() => 50_176,
        5..=8 => 57_088,
        _ => 76_288,
    };
    let depth = [4, 3].into_iter().find(|depth| depth * stage <= most).unwrap_or(2);
    depth * stage
}

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    if library::takes(op, cx) {
        library::linear(op, cx);
        return Ok(());
    }
    prepare::prepare("linear", op.x, cx);
    let all = op.weights.iter().map(|&weight| tiles(cx, weight)).sum();
    let decode = cx.program.class == Class::Decode;
    let splits = if decode && planes::added_by_readers(cx, op.out) { splits(all, cx.cols(op.x)) } else { 1 };
    cx.set_planes(op.out, splits);
    let mut rest = &op.weights[..];
    let mut first = 0;
    while !rest.is_empty() {
        let (count, stack) = run(cx, rest);
        let (these, after) = rest.split_at(count);
        rest = after;
        let dtype = cx.weight(these[0]).dtype();
        let params = CudaLinearParams {
            out_cols: cx.cols(op.out),
            plane_stride: cx.plane_stride(op.out),
            first,
            picked: cx.picked(op.x),
            weights: narrow(count),
        };
        first += these.iter().map(|&weight| narrow(cx.weight(weight).rows())).sum::<u32>();
        let args =
            vec![Arg::Prepared(op.x), Arg::Views(stack), Arg::Act(op.out), Arg::params(&params), Arg::Step];
        let launch = if cx.split() {
            let (entry, rows) = match cx.program.capacity(op.x) {
                ..=1 => ("linear__1", 1),
                2..=4 => ("linear__4", 4),
                5..=8 => ("linear__8", 8),
                _ => ("linear__16", 16),
            };
            let tiles: u32 = these.iter().map(|&weight| tiles(cx, weight)).sum();
            let groups = Count::Fixed(tiles.div_ceil(WARPS));
            let grid = [groups, Count::Fixed(splits), cx.rows(op.x, rows, 1)];
            Launch {
                op: "linear",
                unit: unit(FILE, dtype),
                entry,
                args,
                grid,
                block: [32 * WARPS, 1, 1],
                shared: product_memory(dtype, rows, cx.device),
            }
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
