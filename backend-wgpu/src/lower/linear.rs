//! `linear`: a dispatch for each part of each weight.

use gemma4_core::abi::LinearParams;
use gemma4_core::ops::linear::Linear;
use gemma4_core::program::{Act, Class, Rows};

use super::{Bind, Count, Lowering, linear_tiles, narrow};
use crate::error::WgpuError;
use crate::shaders::{self, Part, Shader};

/// Invocations of a workgroup of `common/matvec.wgsl`.
pub(super) const THREADS: u32 = 128;
/// Outputs that a group of lanes computes together.
pub(super) const OUTPUTS: u32 = 4;
/// Most rows of activations of a workgroup.
const ROWS: u32 = 8;
/// Columns that a lane takes at once.
pub(super) const CHUNK: u32 = 32;
/// Outputs of a workgroup of `linear__any`.
const ANY_OUTPUTS: u32 = 8;
/// Fewest invocations that keep the memory of a large GPU busy.
const ENOUGH: u32 = 40 << 10;
/// Most workgroups along an axis.
const MOST: u32 = 65_535;

/// So many workgroups along x and y; a shader leaves the last ones without work.
fn split(count: u32) -> [Count; 2] {
    let y = count.div_ceil(MOST).max(1);
    [Count::Fixed(count.div_ceil(y)), Count::Fixed(y)]
}

/// How a matrix is spread over invocations, by its shape alone.
///
/// An output of a small matrix is shared by more lanes, so that enough of them read; of two numbers of lanes, the one
/// that leaves fewer of them without a chunk at the end of a row is taken.
pub(super) fn lanes(outputs: u32, cols: u32) -> u32 {
    let (groups, chunks) = (outputs.div_ceil(OUTPUTS), cols.div_ceil(CHUNK));
    let mut lanes = if chunks <= 8 { 8 } else { 16 };
    while lanes < THREADS && (groups * lanes < ENOUGH && lanes < chunks) {
        lanes *= 2;
    }
    let idle =
        |lanes: u32| u64::from(chunks.next_multiple_of(lanes) - chunks) * 64 / u64::from(chunks.max(1));
    let more = lanes * 2;
    if more <= THREADS && idle(more) < idle(lanes) { more } else { lanes }
}

/// Parts that a shader with `common/matvec.wgsl` starts with, and its constants.
pub(super) fn matvec(cx: &Lowering<'_>, decoder: &[Part], op: Part, entry: &'static str) -> Shader {
    let lanes = if cx.device.variants.subgroups { shaders::LANES_SUBGROUP } else { shaders::LANES };
    let mut parts = decoder.to_vec();
    parts.extend([shaders::MATVEC, lanes, op]);
    let shader = Shader::new(&parts, entry);
    if cx.device.variants.subgroups { shader.with("SUBGROUP", cx.device.subgroup) } else { shader }
}

/// Rows of a workgroup for as many as `act` may have.
fn rows_of(cx: &Lowering<'_>, act: Act) -> u32 {
    narrow(cx.program.capacity(act)).next_power_of_two().min(ROWS)
}

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let picked = u32::from(cx.program.spec(op.x).rows == Rows::Picked);
    let mut first = 0;
    for &handle in &op.weights {
        let weight = cx.weight(handle).clone();
        let layout = weight.layout();
        let cols = narrow(weight.cols());
        let decoder = shaders::decoder(weight.dtype());
        for (part, outputs) in weight.parts().iter().map(|part| narrow(part.rows.len())).enumerate() {
            let out_cols = cx.cols(op.out);
            let params = LinearParams {
                cols,
                out_cols,
                stride: layout.stride,
                tails: layout.tails,
                first,
                outputs,
                picked,
            };
            first += outputs;
            if cx.program.class == Class::Prefill && linear_tiles::fits(weight.cols()) {
                linear_tiles::launch((op.x, op.out), (handle, part), &params, cx);
                continue;
            }
            let binds = vec![Bind::Act(op.x), Bind::Weight(handle, part), Bind::ActMut(op.out)];
            if cols % CHUNK != 0 {
                let shader = matvec(cx, decoder, shaders::LINEAR, "linear__any");
                let [x, y] = split(outputs.div_ceil(ANY_OUTPUTS));
                cx.launch("linear", shader, binds, &params, [x, y, cx.each_row(op.out)]);
                continue;
            }
            let (lanes, rows) = (lanes(narrow(weight.rows()), cols), rows_of(cx, op.x));
            let shader = matvec(cx, decoder, shaders::LINEAR, "linear");
            let shader = shader.with("LANES", lanes).with("ROWS", rows);
            let [x, y] = split(outputs.div_ceil(OUTPUTS * THREADS / lanes));
            cx.launch("linear", shader, binds, &params, [x, y, cx.rows(op.out, rows, 1)]);
        }
    }
    Ok(())
}
