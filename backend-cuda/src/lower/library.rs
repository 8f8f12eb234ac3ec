//! Products of prompts by NVIDIA's library: the weight and the activation become halves, which it multiplies.
//!
//! Which products are taken depends on their shapes and the class of the program alone, and so does the algorithm of each.

use gemma4_core::abi::{DequantiseParams, PrepareFormParams};
use gemma4_core::ops::linear::Linear;
use gemma4_core::program::{Class, Rows, Weight};
use gemma4_core::tensor::DType;

use super::{Arg, Count, Launch, Lowering, ONE, Product, narrow};
use crate::kernels::Unit;
use crate::weights::layout::{Form, Scales};

const HALVES: &str = "halves";
const DEQUANTISE: &str = "dequantise";

/// Most bytes of weights that are multiplied at once, unless one alone has more.
const MOST: usize = 256 << 20;
/// Outputs of a weight and columns come in multiples of this, so that every operand is where the library wants it.
const ALIGN: usize = 64;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    let quantised = DType::ALL.into_iter().filter(|&dtype| quantised(dtype));
    let mut units: Vec<Unit> = quantised.map(unit).collect();
    units.push(Unit::new(HALVES));
    units
}

fn unit(dtype: DType) -> Unit {
    Unit::new(DEQUANTISE).with("WEIGHT", dtype.name())
}

fn quantised(dtype: DType) -> bool {
    Form::of(dtype).scales != Scales::Row
}

/// Whether the library does a product.
pub(super) fn takes(op: &Linear, cx: &Lowering<'_>) -> bool {
    let weights = || op.weights.iter().map(|&weight| cx.weight(weight));
    let fits = |weight: &crate::Weight| {
        quantised(weight.dtype())
            && weight.cols().is_multiple_of(ALIGN)
            && weight.rows().is_multiple_of(ALIGN)
    };
    let Some(fewest) = cx.device.library else { return false };
    cx.program.class == Class::Prefill
        && !cx.split()
        && cx.program.spec(op.x).rows == Rows::Step
        && weights().all(fits)
        && weights().map(|weight| weight.rows() * weight.cols()).sum::<usize>() >= fewest
}

/// Weights that are multiplied at once.
fn runs(cx: &Lowering<'_>, weights: &[Weight]) -> Vec<Vec<Weight>> {
    let bytes = |weight: Weight| 2 * cx.weight(weight).rows() * cx.weight(weight).cols();
    let mut runs: Vec<(usize, Vec<Weight>)> = Vec::new();
    for &weight in weights {
        match runs.last_mut() {
            Some((sum, run)) if *sum + bytes(weight) <= MOST => {
                *sum += bytes(weight);
                run.push(weight);
            }
            _ => runs.push((bytes(weight), vec![weight])),
        }
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) {
    let (cols, rows) = (cx.cols(op.x), cx.program.capacity(op.x) as u64);
    let form = |cx: &Lowering<'_>, act| PrepareFormParams {
        cols: cx.cols(act),
        picked: cx.picked(act),
        planes: cx.planes(act),
        plane_stride: cx.plane_stride(act),
    };
    let (x, scales) = (cx.scratch(rows * u64::from(cols) * 2), cx.scratch(rows * 4));
    cx.launch(Launch {
        op: "linear",
        unit: Unit::new(HALVES),
        entry: "halves",
        args: vec![
            Arg::Act(op.x),
            Arg::Scratch(x),
            Arg::Scratch(scales),
            Arg::params(&form(cx, op.x)),
            Arg::Step,
        ],
        grid: [cx.each_row(op.x), ONE, ONE],
        block: [256, 1, 1],
        shared: 0,
    });
    cx.set_planes(op.out, 1);
    let mut first = 0;
    for run in runs(cx, &op.weights) {
        let outputs = run.iter().map(|&weight| narrow(cx.weight(weight).rows())).sum::<u32>();
        let matrix = cx.scratch(u64::from(outputs) * u64::from(cols) * 2);
        let mut row = 0;
        for weight in run {
            let (dtype, rows) = (cx.weight(weight).dtype(), narrow(cx.weight(weight).rows()));
            cx.launch(Launch {
                op: "linear",
                unit: unit(dtype),
                entry: "dequantise",
                args: vec![
                    Arg::View(weight),
                    Arg::Scratch(matrix),
                    Arg::params(&DequantiseParams { first: row }),
                ],
                grid: [Count::Fixed(rows.div_ceil(16)), Count::Fixed(cols.div_ceil(256 * 8)), ONE],
                block: [256, 1, 1],
                shared: 0,
            });
            row += rows;
        }
        cx.product(Product { op: "linear", x, weight: matrix, out: op.out, first, outputs, cols });
        first += outputs;
    }
    cx.launch(Launch {
        op: "linear",
        unit: Unit::new(HALVES),
        entry: "halves__back",
        args: vec![Arg::Act(op.out), Arg::Scratch(scales), Arg::params(&form(cx, op.out)), Arg::Step],
        grid: [cx.each_row(op.out), Count::Fixed(cx.cols(op.out).div_ceil(1024)), ONE],
        block: [256, 1, 1],
        shared: 0,
    });
}
