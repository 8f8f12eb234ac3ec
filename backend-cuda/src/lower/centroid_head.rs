//! `centroid_head`: the clusters of a row, the products with their tokens, and all logits.

use gemma4_core::abi::{CENTROID_SLICE, CENTROID_THREADS, CENTROID_WARPS, CudaCentroidParams, WARP};
use gemma4_core::ops::centroid_head::CentroidHead;
use gemma4_core::tensor::DType;

use super::rows::whole;
use super::{Arg, Count, Launch, Lowering, ONE, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

const OP: &str = "centroid_head";

/// The products with a table of one type.
fn unit(dtype: DType) -> Unit {
    Unit::new(OP).with("WEIGHT", dtype.name())
}

/// What comes before and after them.
fn choose() -> Unit {
    Unit::new("centroid_head_choose")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    DType::ALL.into_iter().map(unit).chain([choose()]).collect()
}

pub(super) fn centroid_head(op: &CentroidHead, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole(OP, &[op.x, op.scores], cx)?;
    let (vocab, clusters) = (cx.cols(op.out), cx.cols(op.scores));
    let params = CudaCentroidParams {
        hidden: cx.cols(op.x),
        clusters,
        each: vocab / clusters,
        top_k: narrow(op.top_k),
        vocab,
        picked: cx.picked(op.out),
    };
    let rows = cx.program.capacity(op.x) as u64;
    let tokens = params.top_k * params.each;
    let chosen = Arg::Scratch(cx.scratch(rows * u64::from(params.top_k) * 4));
    let found = Arg::Scratch(cx.scratch(rows * u64::from(tokens) * 4));
    let each_row = cx.each_row(op.out);
    let (ordering, params) = (Arg::Weight(op.ordering), Arg::params(&params));
    cx.launch(Launch {
        op: OP,
        unit: choose(),
        entry: "centroid_head__choose",
        args: vec![Arg::Act(op.scores), chosen.clone(), params.clone(), Arg::Step],
        grid: [each_row, ONE, ONE],
        block: [CENTROID_THREADS, 1, 1],
        shared: 0,
    });
    cx.launch(Launch {
        op: OP,
        unit: unit(cx.weight(op.table).dtype()),
        entry: OP,
        args: vec![
            Arg::Act(op.x),
            Arg::View(op.table),
            ordering.clone(),
            chosen.clone(),
            found.clone(),
            params.clone(),
            Arg::Step,
        ],
        grid: [Count::Fixed(tokens.div_ceil(CENTROID_WARPS)), each_row, ONE],
        block: [WARP * CENTROID_WARPS, 1, 1],
        shared: 0,
    });
    cx.launch(Launch {
        op: OP,
        unit: choose(),
        entry: "centroid_head__fill",
        args: vec![ordering, chosen, found, Arg::Act(op.out), params, Arg::Step],
        grid: [Count::Fixed(vocab.div_ceil(CENTROID_SLICE)), each_row, ONE],
        block: [CENTROID_THREADS, 1, 1],
        shared: 0,
    });
    Ok(())
}
