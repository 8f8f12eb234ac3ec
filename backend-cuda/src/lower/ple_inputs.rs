//! `ple_inputs`: a warp for each layer of a row.

use gemma4_core::abi::{CudaPleInputsParams, PLE_WARPS, WARP};
use gemma4_core::ops::ple_inputs::PleInputs;
use gemma4_core::tensor::DType;

use super::rows::whole;
use super::{Arg, Count, Launch, Lowering, ONE, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit(dtype: DType) -> Unit {
    Unit::new("ple_inputs").with("WEIGHT", dtype.name())
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    DType::ALL.map(unit).into()
}

pub(super) fn ple_inputs(op: &PleInputs, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole("ple_inputs", &[op.context], cx)?;
    let (cols, ple) = (cx.cols(op.out), narrow(cx.weight(op.norm).cols()));
    let table = cx.weight(op.table);
    let Some(row_bytes) = table.dtype().row_bytes(table.cols()) else {
        return Err(cx.unsupported(
            "ple_inputs",
            format!("rows of its table are no whole blocks of {}", table.dtype()),
        ));
    };
    let params = CudaPleInputsParams {
        cols,
        ple,
        vocab: narrow(table.rows()),
        row_bytes: narrow(row_bytes),
        table_scale: (ple as f32).sqrt(),
        context_scale: 1.0 / (op.hidden as f32).sqrt(),
        eps: op.eps,
    };
    let args = vec![
        Arg::Act(op.context),
        Arg::HostTable(op.table),
        Arg::Weight(op.norm),
        Arg::Rows,
        Arg::Sampled,
        Arg::Act(op.out),
        Arg::params(&params),
        Arg::Step,
    ];
    let grid = [Count::Fixed((cols / ple).div_ceil(PLE_WARPS)), cx.each_row(op.out), ONE];
    cx.launch(Launch {
        op: "ple_inputs",
        unit: unit(cx.weight(op.table).dtype()),
        entry: "ple_inputs",
        args,
        grid,
        block: [PLE_WARPS * WARP, 1, 1],
        shared: 0,
    });
    Ok(())
}
