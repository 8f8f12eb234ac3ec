//! The end of a layer with per-layer inputs, in the decode class: `norm_add`, `linear` and `glu` of the gate, `linear` of the
//! projection, `norm_add`, and the norm of the next layer. Three dispatches: the gate makes the sum that it reads by
//! itself, and the last one makes it once more before it adds to it.

use gemma4_core::abi::LinearParams;
use gemma4_core::ops::Op;
use gemma4_core::ops::glu::Glu;
use gemma4_core::ops::linear::Linear;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;

use super::linear::{OUTPUTS, THREADS, lanes, matvec, of_weight, split};
use super::{Bind, Lowering, linear, narrow, norm};
use crate::shaders;

/// Widest sum that the gate keeps in workgroup memory.
const WIDEST: u32 = 24 * THREADS;

/// The ops.
pub(super) struct Gated<'a> {
    add: &'a NormAdd,
    gate: &'a Linear,
    glu: &'a Glu,
    projection: &'a Linear,
    last: &'a NormAdd,
    next: &'a RmsNorm,
}

/// Those ops, where they are the next ones; with what comes after them.
pub(super) fn gated<'a>(ops: &'a [Op], cx: &Lowering<'_>) -> Option<(Gated<'a>, &'a [Op])> {
    let [
        Op::NormAdd(add),
        Op::Linear(gate),
        Op::Glu(glu),
        Op::Linear(projection),
        Op::NormAdd(last),
        Op::RmsNorm(next),
        after @ ..,
    ] = ops
    else {
        return None;
    };
    let all = Gated { add, gate, glu, projection, last, next };
    all.fuse(cx).then_some((all, after))
}

impl Gated<'_> {
    fn fuse(&self, cx: &Lowering<'_>) -> bool {
        let &Self { add, gate, glu, projection, last, next } = self;
        linear::gates(gate, glu, cx)
            && norm::fuses(last, next, cx)
            && [gate.x, last.residual] == [add.residual; 2]
            && (last.y, projection.x) == (projection.out, glu.out)
            && ![projection.out, glu.out, next.out].contains(&add.y)
            && ![add.y, add.residual].contains(&glu.up.act)
            && (add.scale.to_bits(), add.eps.to_bits()) == (1.0f32.to_bits(), last.eps.to_bits())
            && cx.cols(add.y) <= WIDEST
    }

    /// The dispatches.
    pub(super) fn launch(&self, cx: &mut Lowering<'_>) {
        self.gate(cx);
        linear::linear(self.projection, cx);
        norm::norm_add_twice(self.add.y, self.add.weight, self.last, self.next, cx);
    }

    fn gate(&self, cx: &mut Lowering<'_>) {
        let &Self { add, gate, glu, .. } = self;
        let handle = gate.weights[0];
        let weight = cx.weight(handle).clone();
        let lanes = lanes(narrow(weight.rows()), narrow(weight.cols()));
        let parts = [shaders::ACTIVATION, shaders::LINEAR_GATE_OF_SUM];
        let shader = matvec(cx, shaders::decoder(weight.dtype()), &parts, "linear__gate_of_sum");
        let shader = shader.with("LANES", lanes).with("ROWS", 1).with("EPS_BITS", add.eps.to_bits());
        for (part, range) in weight.parts().iter().map(|part| part.rows.clone()).enumerate() {
            let params = LinearParams {
                out_cols: cx.cols(glu.out),
                first: narrow(range.start),
                outputs: narrow(range.len()),
                up_cols: cx.cols(glu.up.act),
                up_start: narrow(glu.up.start),
                ..of_weight(&weight, gate.x, cx)
            };
            let binds = vec![
                Bind::Act(add.y),
                Bind::Weight(handle, part),
                Bind::ActMut(glu.out),
                Bind::Act(glu.up.act),
                Bind::Act(add.residual),
                Bind::Weight(add.weight, 0),
            ];
            let [x, y] = split(params.outputs.div_ceil(OUTPUTS * THREADS / lanes));
            cx.launch("linear", shader.clone(), binds, &params, [x, y, cx.each_row(glu.out)]);
        }
    }
}
