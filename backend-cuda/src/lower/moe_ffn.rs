//! `moe_ffn`: pairs sorted by expert, products with gate and up, the gate, products with down.

use gemma4_core::abi::CudaMoeParams;
use gemma4_core::ops::Op;
use gemma4_core::ops::moe_ffn::MoeFfn;
use gemma4_core::program::{Act, Class, Weight};
use gemma4_core::tensor::DType;

use super::linear::{self, Kind, unit};
use super::{Arg, Count, Launch, Lowering, ONE, Scratch, narrow, prepare};
use crate::error::CudaError;
use crate::kernels::Unit;

/// Most pairs of a tile of few rows.
const PAIRS: u32 = 4;
/// Most planes of gates and ups.
const PLANES: u32 = 8;
/// Warps of a block, each with 16 outputs.
const WARPS: u32 = 4;

const FILE: &str = "moe_ffn";
const TILES: &str = "moe_tiles";

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    DType::ALL.into_iter().flat_map(|dtype| [unit(FILE, dtype), unit(TILES, dtype)]).collect()
}

/// Whether the op reads its input in the form of products.
pub(super) fn reads_prepared(_: &MoeFfn, _: &Lowering<'_>) -> bool {
    true
}

/// Tiles of 16 outputs.
fn tiles_of(cx: &Lowering<'_>, weight: Weight) -> u32 {
    narrow(cx.weight(weight).rows()).div_ceil(16)
}

/// What all launches of the op have in common.
fn params(op: &MoeFfn, cx: &Lowering<'_>) -> CudaMoeParams {
    let down = cx.weight(op.down);
    let (top_k, experts, ffn) = (cx.cols(op.experts), narrow(down.experts()), narrow(down.cols()));
    let pairs = narrow(cx.program.capacity(op.x)) * top_k;
    let tile = if cx.split() { PAIRS } else { linear::TILE };
    // Full tiles, and one that is not full for each expert.
    let tiles = pairs.min(pairs / tile + experts.min(pairs));
    let splits = if cx.program.class == Class::Decode {
        let all: u32 = op.gate_up.weights().iter().map(|&weight| tiles_of(cx, weight)).sum();
        linear::splits(all * top_k, cx.cols(op.x), PLANES)
    } else {
        1
    };
    CudaMoeParams {
        top_k,
        experts,
        tile,
        tiles,
        picked: cx.picked(op.x),
        pairs,
        ffn,
        cols: cx.cols(op.out),
        splits,
        weights: 1,
        first: 0,
        plane_stride: cx.plane_stride(op.out),
        known: 0,
    }
}

fn launch(
    unit: Unit,
    entry: &'static str,
    args: Vec<Arg>,
    grid: [Count; 3],
    threads: u32,
    shared: u32,
) -> Launch {
    Launch { op: "moe_ffn", unit, entry, args, grid, block: [threads, 1, 1], shared }
}

/// Whether pairs are sorted by expert: those of a single row are in order as they are.
fn sorts(op: &MoeFfn, cx: &Lowering<'_>) -> bool {
    cx.program.capacity(op.x) > 1 || !cx.split()
}

/// Sorts pairs by expert: their order, and tiles of them.
fn sort(op: &MoeFfn, cx: &mut Lowering<'_>) -> [Scratch; 2] {
    let params = params(op, cx);
    let sorted = [params.pairs, 4 * params.tiles].map(|elements| cx.scratch(u64::from(elements) * 4));
    let [order, lists] = sorted.map(Arg::Scratch);
    let args = vec![Arg::Act(op.experts), order, lists, Arg::params(&params), Arg::Step];
    let unit = unit(FILE, cx.weight(op.down).dtype());
    cx.launch(launch(unit, "moe_ffn__group", args, [ONE; 3], 1024, 0));
    sorted
}

/// Sorts the pairs of the op that uses `experts` as soon as they are chosen: what lies between hides it, and the products of the
/// op may begin with their weights.
pub(super) fn sort_ahead(experts: Act, cx: &mut Lowering<'_>) {
    let user = cx.readers(experts, cx.next).find_map(|op| match op {
        Op::MoeFfn(op) => Some(op),
        _ => None,
    });
    if let Some(op) = user.filter(|op| sorts(op, cx)) {
        cx.sorted = Some((experts, sort(op, cx)));
    }
}

pub(super) fn moe_ffn(op: &MoeFfn, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    prepare::prepare("moe_ffn", op.x, cx);
    let down = cx.weight(op.down).clone();
    let ups = op.gate_up.weights();
    let ahead = cx.sorted.take_if(|(experts, _)| *experts == op.experts).map(|(_, sorted)| sorted);
    let known = u32::from((ahead.is_some() || !sorts(op, cx)) && cx.behind_linear(1));
    let params = CudaMoeParams { known, ..params(op, cx) };
    let [order, lists] = match ahead {
        Some(sorted) => sorted.map(Arg::Scratch),
        None if sorts(op, cx) => sort(op, cx).map(Arg::Scratch),
        None => [Arg::Null, Arg::Null],
    };
    let CudaMoeParams { top_k, tiles, pairs, splits, ffn, .. } = params;
    let both = cx.scratch(u64::from(splits * 2 * ffn) * u64::from(pairs) * 4);
    let form = cx.form(pairs as usize, ffn as usize, [op.down]);
    let act = cx.scratch(form.bytes());
    let of_down = unit(FILE, down.dtype());

    let mut rest = &ups[..];
    let mut first = 0;
    while let [weight, ..] = *rest {
        let dtype = cx.weight(weight).dtype();
        let count = rest.iter().take_while(|&&w| cx.weight(w).dtype() == dtype).count();
        let (these, after) = rest.split_at(count);
        rest = after;
        let views = Arg::Views(std::array::from_fn(|i| *these.get(i).unwrap_or(&weight)));
        let up = CudaMoeParams { weights: narrow(count), first, ..params };
        first += these.iter().map(|&weight| narrow(cx.weight(weight).rows())).sum::<u32>();
        let step = if cx.split() {
            let groups: u32 = these.iter().map(|&weight| tiles_of(cx, weight)).sum();
            let grid = [groups.div_ceil(WARPS), splits, tiles].map(Count::Fixed);
            let args = vec![
                Arg::Prepared(op.x),
                views,
                Arg::Act(op.experts),
                order.clone(),
                lists.clone(),
                Arg::Scratch(both),
                Arg::params(&up),
                Arg::Step,
            ];
            launch(
                unit(FILE, dtype),
                "moe_ffn__up",
                args,
                grid,
                32 * WARPS,
                linear::product_memory(dtype, PAIRS, Kind::Parts, cx.device),
            )
        } else {
            let groups: u32 = these.iter().map(|&weight| tiles_of(cx, weight).div_ceil(8)).sum();
            let grid = [Count::Fixed(tiles), Count::Fixed(groups), ONE];
            let args = vec![
                Arg::Prepared(op.x),
                views,
                order.clone(),
                lists.clone(),
                Arg::Scratch(both),
                Arg::params(&up),
            ];
            let shared = linear::tile_memory(dtype);
            launch(unit(TILES, dtype), "moe_ffn__up_tiles", args, grid, 256, shared)
        };
        cx.launch(step);
    }

    let args = vec![Arg::Scratch(both), Arg::PreparedIn(act, form), Arg::params(&params), Arg::Step];
    let each_pair = [cx.rows(op.x, 1, top_k), ONE, ONE];
    cx.launch(launch(of_down.clone(), "moe_ffn__act", args, each_pair, 256, 0));

    let views = Arg::Views([op.down; 3]);
    let (prepared, outs) = (Arg::PreparedIn(act, form), [Arg::Act(op.weights), Arg::Act(op.out)]);
    let [shares, out] = outs;
    let step = if cx.split() {
        let grid = [tiles_of(cx, op.down).div_ceil(WARPS), 1, tiles].map(Count::Fixed);
        let args = vec![
            prepared,
            views,
            Arg::Act(op.experts),
            order,
            lists,
            shares,
            out,
            Arg::params(&params),
            Arg::Step,
        ];
        let shared = linear::product_memory(down.dtype(), PAIRS, Kind::Parts, cx.device);
        launch(of_down, "moe_ffn__down", args, grid, 32 * WARPS, shared)
    } else {
        let grid = [Count::Fixed(tiles), Count::Fixed(tiles_of(cx, op.down).div_ceil(8)), ONE];
        let args = vec![prepared, views, order, lists, shares, out, Arg::params(&params)];
        let shared = linear::tile_memory(down.dtype());
        launch(unit(TILES, down.dtype()), "moe_ffn__down_tiles", args, grid, 256, shared)
    };
    cx.launch(step);
    cx.set_planes(op.out, top_k);
    Ok(())
}
