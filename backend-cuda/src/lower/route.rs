//! `route`: a block for each expert and some rows, or for a tile of both; the last block of the rows chooses.

use gemma4_core::abi::{
    CudaRouteParams, ROUTE_EXPERTS, ROUTE_ROWS, ROUTE_THREADS, ROUTE_TILE_EXPERTS, ROUTE_TILE_ROWS, WARP,
};
use gemma4_core::ops::route::Route;
use gemma4_core::program::Class;
use gemma4_core::tensor::DType;

use super::rows::whole;
use super::{Arg, Count, Launch, Lowering, ONE, moe_ffn, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit(dtype: DType) -> Unit {
    Unit::new("route").with("WEIGHT", dtype.name())
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    DType::ALL.map(unit).into()
}

pub(super) fn route(op: &Route, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole("route", &[op.x], cx)?;
    let (experts, top_k) = (narrow(cx.weight(op.proj).rows()), cx.cols(op.experts));
    for (what, got, most) in [("experts", experts, ROUTE_EXPERTS), ("experts a row", top_k, WARP)] {
        if got > most {
            return Err(cx.unsupported("route", format!("{got} {what}, expected at most {most}")));
        }
    }
    let cols = cx.cols(op.x);
    let params = CudaRouteParams {
        cols,
        experts,
        top_k,
        picked: cx.picked(op.x),
        eps: op.eps,
        factor: 1.0 / (cols as f32).sqrt(),
    };
    let (entry, rows, blocks) = match cx.program.class {
        Class::Decode => ("route", ROUTE_ROWS, experts),
        Class::Prefill => ("route__tile", ROUTE_TILE_ROWS, experts.div_ceil(ROUTE_TILE_EXPERTS)),
    };
    let capacity = cx.program.capacity(op.x) as u64;
    let logits = cx.scratch(capacity * u64::from(experts) * 4);
    let arrived = cx.kept(capacity.div_ceil(rows.into()) * 4, true);
    let args = vec![
        Arg::Act(op.x),
        Arg::Weight(op.scale),
        Arg::View(op.proj),
        Arg::Weight(op.expert_scale),
        Arg::Scratch(logits),
        Arg::Scratch(arrived),
        Arg::Act(op.experts),
        Arg::Act(op.weights),
        Arg::params(&params),
        Arg::Step,
    ];
    let grid = [Count::Fixed(blocks), cx.rows(op.x, rows, 1), ONE];
    cx.launch(Launch {
        op: "route",
        unit: unit(cx.weight(op.proj).dtype()),
        entry,
        args,
        grid,
        block: [ROUTE_THREADS, 1, 1],
        shared: 0,
    });
    moe_ffn::sort_ahead(op.experts, cx);
    Ok(())
}
