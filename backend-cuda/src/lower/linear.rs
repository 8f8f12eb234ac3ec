//! `linear`: a launch for each run of up to three weights of one type.

use gemma4_core::abi::CudaLinearParams;
use gemma4_core::ops::linear::Linear;
use gemma4_core::program::{Class, Weight};
use gemma4_core::tensor::DType;

use super::{Arg, Count, Launch, Lowering, ONE, library, narrow, planes, prepare};
use crate::error::CudaError;
use crate::kernels::Unit;
use crate::weights::layout::{Form, Scales};

/// Warps of a block.
const WARPS: u32 = 4;
/// Warps of a multiprocessor that its registers have room for, with one to four rows.
const RESIDENT: u32 = 16;
/// Most planes of an output: a norm reads all of them with one block.
const PLANES: u32 = 6;
/// Fewest steps of a warp.
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

/// Tiles of 16 outputs.
fn tiles(cx: &Lowering<'_>, weight: Weight) -> u32 {
    narrow(cx.weight(weight).rows()).div_ceil(16)
}

/// Bytes that a warp keeps on their way to it: `Stage` of `kernels/common/product.cuh`.
fn ring(dtype: DType) -> u32 {
    let Form { bits, extra, scales } = Form::of(dtype);
    let step = match scales {
        Scales::Row => 128 * narrow(bits),
        Scales::Half => 512 * narrow(bits + extra) + 256,
        Scales::HalfMin => 512 * narrow(bits + extra) + 512,
        Scales::SixBit => 512 * narrow(bits + extra) + 256,
        Scales::Byte16 => 512 * narrow(bits + extra) + 256 + 32,
        Scales::Byte32 => 512 * narrow(bits + extra) + 128 + 32,
        Scales::Nibble => 512 * narrow(bits + extra) + 256 + 64,
    };
    let depth = [4, 3].into_iter().find(|depth| step * depth * WARPS <= 49_152).unwrap_or(2);
    step * depth
}

/// Warps that the device holds at once.
pub(super) fn resident(cx: &Lowering<'_>, dtype: DType) -> u32 {
    let blocks = cx.device.shared / (ring(dtype) * WARPS + 1024);
    cx.device.multiprocessors * RESIDENT.min(blocks.max(1) * WARPS)
}

/// How the steps of a product are shared out: see `kernels/linear.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    tiles: u32,
    steps: u32,
    warps: u32,
    /// Whether a tile has one warp.
    whole: bool,
}

impl Shares {
    /// Shares for as many warps as there are, or fewer, so that no tile has more pieces than planes.
    fn new(tiles: u32, steps: u32, resident: u32, split: bool) -> Self {
        if !split {
            return Self { tiles, steps, warps: tiles.min(resident), whole: true };
        }
        let total = u64::from(tiles) * u64::from(steps);
        let most = u32::try_from((total / u64::from(FEWEST)).max(1)).unwrap_or(u32::MAX);
        let mut shares = Self { tiles, steps, warps: resident.min(most), whole: false };
        while shares.planes() > PLANES {
            shares.warps -= shares.warps.div_ceil(32);
        }
        shares
    }

    /// Most pieces of a tile.
    fn planes(self) -> u32 {
        if self.whole {
            return 1;
        }
        let [tiles, steps, warps] = [self.tiles, self.steps, self.warps].map(u64::from);
        let warp = |step: u64| ((step + 1) * warps - 1) / (tiles * steps);
        let pieces = (0..tiles).map(|tile| warp((tile + 1) * steps - 1) - warp(tile * steps) + 1);
        u32::try_from(pieces.max().unwrap_or(1)).unwrap_or(u32::MAX)
    }
}

/// In how many parts the columns of a matrix are summed up where each tile of an expert has warps of its own.
pub(super) fn splits(tiles: u32, cols: u32) -> u32 {
    (2048 / tiles.max(1)).clamp(1, 8).min(cols.div_ceil(256) / FEWEST).max(1)
}

/// The weights of each launch: neighbours of one type, at most three.
fn runs(cx: &Lowering<'_>, weights: &[Weight]) -> Vec<Vec<Weight>> {
    let mut runs: Vec<Vec<Weight>> = Vec::new();
    for &weight in weights {
        let dtype = cx.weight(weight).dtype();
        match runs.last_mut() {
            Some(run) if run.len() < STACK && cx.weight(run[0]).dtype() == dtype => run.push(weight),
            _ => runs.push(vec![weight]),
        }
    }
    runs
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

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    if library::takes(op, cx) {
        library::linear(op, cx);
        return Ok(());
    }
    prepare::prepare("linear", op.x, cx);
    let runs = runs(cx, &op.weights);
    let split = cx.program.class == Class::Decode && planes::added_by_readers(cx, op.out);
    let shares: Vec<Shares> = runs
        .iter()
        .map(|run| {
            let dtype = cx.weight(run[0]).dtype();
            let chunks = narrow(cx.weight(run[0]).cols()).div_ceil(64);
            let steps = if Form::of(dtype).scales == Scales::Row { chunks } else { chunks.div_ceil(4) };
            let tiles = run.iter().map(|&weight| tiles(cx, weight)).sum();
            Shares::new(tiles, steps, resident(cx, dtype), split)
        })
        .collect();
    let count = if cx.split() { shares.iter().map(|shares| shares.planes()).max().unwrap_or(1) } else { 1 };
    cx.set_planes(op.out, count);
    let mut first = 0;
    for (run, shares) in runs.into_iter().zip(shares) {
        let dtype = cx.weight(run[0]).dtype();
        let params = CudaLinearParams {
            out_cols: cx.cols(op.out),
            plane_stride: cx.plane_stride(op.out),
            first,
            picked: cx.picked(op.x),
            weights: narrow(run.len()),
            tiles: shares.tiles,
            steps: shares.steps,
            warps: shares.warps,
            whole: u32::from(shares.whole),
            planes: count,
        };
        first += run.iter().map(|&weight| narrow(cx.weight(weight).rows())).sum::<u32>();
        let stack = std::array::from_fn(|i| *run.get(i).unwrap_or(&run[0]));
        let args =
            vec![Arg::Prepared(op.x), Arg::Views(stack), Arg::Act(op.out), Arg::params(&params), Arg::Step];
        let launch = if cx.split() {
            // Columns of the B operand of one product are four rows in two parts.
            let rows = narrow(cx.program.capacity(op.x)).div_ceil(4).next_power_of_two().min(4);
            let entry = ["linear__1", "linear__2", "linear__2", "linear__4"][rows as usize - 1];
            let grid = [Count::Fixed(shares.warps.div_ceil(WARPS)), cx.rows(op.x, 4 * rows, 1), ONE];
            Launch {
                op: "linear",
                unit: unit(FILE, dtype),
                entry,
                args,
                grid,
                block: [32 * WARPS, 1, 1],
                shared: 0,
            }
        } else {
            let groups = run.iter().map(|&weight| tiles(cx, weight).div_ceil(TILE / 16)).sum();
            let grid = [cx.rows(op.x, TILE, 1), Count::Fixed(groups), ONE];
            let (unit, shared) = (unit(TILES, dtype), tile_memory(dtype));
            Launch { op: "linear", unit, entry: "linear__tiles", args, grid, block: [256, 1, 1], shared }
        };
        cx.launch(launch);
    }
    Ok(())
}
