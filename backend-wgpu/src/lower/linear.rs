//! `linear`: a dispatch for each part of each weight.

use gemma4_core::abi::LinearParams;
use gemma4_core::ops::linear::Linear;

use super::{Bind, Count, Lowering, linear_tiles, narrow};
use crate::error::WgpuError;
use crate::shaders::{self, Shader};
use gemma4_core::program::Class;

/// Outputs of a workgroup.
const GROUPS: u32 = 8;

/// Most workgroups along an axis.
const MOST: u32 = 65535;

/// So many workgroups along x and y; a shader leaves the last ones without work.
fn split(count: u32) -> [Count; 2] {
    let y = count.div_ceil(MOST);
    [Count::Fixed(count.div_ceil(y.max(1))), Count::Fixed(y)]
}

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let mut first = 0;
    for &handle in &op.weights {
        let weight = cx.weight(handle).clone();
        let layout = weight.layout();
        for (part, rows) in weight.parts().iter().map(|part| part.rows.len()).enumerate() {
            let params = LinearParams {
                cols: narrow(weight.cols()),
                out_cols: cx.cols(op.out),
                stride: layout.stride,
                tails: layout.tails,
                first,
                outputs: narrow(rows),
                picked: 0,
            };
            first += narrow(rows);
            if cx.program.class == Class::Prefill && linear_tiles::fits(weight.cols()) {
                linear_tiles::launch((op.x, op.out), (handle, part), params, cx);
                continue;
            }
            let binds = vec![Bind::Act(op.x), Bind::Weight(handle, part), Bind::ActMut(op.out)];
            let mut parts = shaders::decoder(weight.dtype()).to_vec();
            parts.push(shaders::LINEAR);
            let shader = Shader::new(&parts, "linear__any");
            let [x, y] = split(narrow(rows).div_ceil(GROUPS));
            cx.launch("linear", shader, binds, &params, [x, y, cx.each_row(op.out)]);
        }
    }
    Ok(())
}
