//! `embed`: a dispatch for each part of the table.

use gemma4_core::abi::EmbedParams;
use gemma4_core::ops::embed::Embed;

use super::{Bind, Count, Lowering, ONE, narrow};
use crate::shaders::{self, Shader};

pub(super) fn embed(op: &Embed, cx: &mut Lowering<'_>) {
    let table = cx.weight(op.table).clone();
    let layout = table.layout();
    let cols = narrow(table.cols());
    for (part, range) in table.parts().iter().map(|part| part.rows.clone()).enumerate() {
        let params = EmbedParams {
            cols,
            stride: layout.stride,
            tails: layout.tails,
            first: narrow(range.start),
            part_rows: narrow(range.len()),
            scale: op.scale,
        };
        let binds = vec![Bind::Weight(op.table, part), Bind::Rows, Bind::Sampled, Bind::ActMut(op.out)];
        let mut parts = shaders::decoder(table.dtype()).to_vec();
        parts.push(shaders::EMBED);
        let shader = Shader::new(&parts, "embed");
        let grid = [Count::Fixed(cols.div_ceil(4 * gemma4_core::abi::ROW_THREADS)), cx.each_row(op.out), ONE];
        cx.launch("embed", shader, binds, &params, grid);
    }
}
