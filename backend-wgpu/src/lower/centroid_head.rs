//! `centroid_head`: the clusters of a row, the products with their tokens, and all logits.

use gemma4_core::abi::{CentroidParams, ROW_THREADS};
use gemma4_core::ops::centroid_head::CentroidHead;

use super::{Bind, Count, Lowering, ONE, narrow};
use crate::shaders::{self, Shader};

pub(super) fn centroid_head(op: &CentroidHead, cx: &mut Lowering<'_>) {
    let table = cx.weight(op.table).clone();
    let layout = table.layout();
    let (vocab, clusters) = (cx.cols(op.out), cx.cols(op.scores));
    let all = CentroidParams {
        hidden: cx.cols(op.x),
        clusters,
        each: vocab / clusters,
        top_k: narrow(op.top_k),
        vocab,
        stride: layout.stride,
        tails: layout.tails,
        ..CentroidParams::default()
    };
    let rows = cx.program.capacity(op.x) as u64;
    let tokens = all.top_k * all.each;
    let chosen = cx.scratch(rows * u64::from(all.top_k) * 4);
    let found = cx.scratch(rows * u64::from(tokens) * 4);
    let each_row = cx.each_row(op.out);

    let shader = Shader::new(&[shaders::CENTROID_HEAD_CHOOSE], "centroid_head__choose");
    let binds = vec![Bind::Act(op.scores), Bind::ScratchMut(chosen)];
    cx.launch("centroid_head", shader, binds, &all, [each_row, ONE, ONE]);

    for (part, range) in table.parts().iter().map(|part| part.rows.clone()).enumerate() {
        let params = CentroidParams { first: narrow(range.start), part_rows: narrow(range.len()), ..all };
        let parts = [shaders::decoder(table.dtype()), &[shaders::CENTROID_HEAD]].concat();
        let binds = vec![
            Bind::Weight(op.table, part),
            Bind::Act(op.x),
            Bind::Weight(op.ordering, 0),
            Bind::Scratch(chosen),
            Bind::ScratchMut(found),
        ];
        let grid = [Count::Fixed(tokens.div_ceil(ROW_THREADS)), each_row, ONE];
        cx.launch("centroid_head", Shader::new(&parts, "centroid_head"), binds, &params, grid);
    }

    let shader = Shader::new(&[shaders::CENTROID_HEAD_FILL], "centroid_head__fill");
    let binds =
        vec![Bind::Weight(op.ordering, 0), Bind::Scratch(chosen), Bind::Scratch(found), Bind::ActMut(op.out)];
    cx.launch("centroid_head", shader, binds, &all, [each_row, ONE, ONE]);
}
