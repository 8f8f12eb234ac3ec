//! `ple_inputs`: a dispatch for each part of the table.

use gemma4_core::abi::PleInputsParams;
use gemma4_core::ops::ple_inputs::PleInputs;

use super::{Bind, Count, Lowering, ONE, narrow};
use crate::shaders::{self, Shader};

pub(super) fn ple_inputs(op: &PleInputs, cx: &mut Lowering<'_>) {
    let table = cx.weight(op.table).clone();
    let layout = table.layout();
    let (cols, ple) = (narrow(table.cols()), narrow(cx.weight(op.norm).cols()));
    for (part, range) in table.parts().iter().map(|part| part.rows.clone()).enumerate() {
        let params = PleInputsParams {
            cols,
            ple,
            stride: layout.stride,
            tails: layout.tails,
            first: narrow(range.start),
            part_rows: narrow(range.len()),
            table_scale: (ple as f32).sqrt(),
            context_scale: 1.0 / (op.hidden as f32).sqrt(),
            eps: op.eps,
        };
        let binds = vec![
            Bind::Act(op.context),
            Bind::Weight(op.table, part),
            Bind::Weight(op.norm, 0),
            Bind::Rows,
            Bind::Sampled,
            Bind::ActMut(op.out),
        ];
        let mut parts = shaders::decoder(table.dtype()).to_vec();
        parts.extend([shaders::REDUCE, shaders::PLE_INPUTS]);
        let shader = Shader::new(&parts, "ple_inputs");
        let grid = [Count::Fixed(cols / ple), cx.each_row(op.out), ONE];
        cx.launch("ple_inputs", shader, binds, &params, grid);
    }
}
