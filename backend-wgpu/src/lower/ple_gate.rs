//! The end of a layer with per-layer inputs, in the decode class: `norm_add`, `linear` and `glu` of the gate, `linear` of the
//! projection, `norm_add`, and the norm of the next layer. Three dispatches: the gate makes the sum that it reads by
//! itself, and the last one makes it once more before it adds to it. For one row the last one is the end of the projection.

use gemma4_core::ops::Op;
use gemma4_core::ops::glu::Glu;
use gemma4_core::ops::linear::Linear;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;

use super::linear::{THREADS, matvec};
use super::linear_norm::Ended;
use super::{Bind, Lowering, linear, norm};
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
        let &Self { add, projection, last, next, .. } = self;
        let ended = Ended { linear: projection, dense: Some((add.y, add.weight)), add: last, norm: next };
        if ended.fuse(cx) {
            ended.launch(cx);
            return;
        }
        linear::linear(projection, cx);
        norm::norm_add_twice(add.y, add.weight, last, next, cx);
    }

    fn gate(&self, cx: &mut Lowering<'_>) {
        let &Self { add, gate, glu, .. } = self;
        let decoder = shaders::decoder(cx.weight(gate.weights[0]).dtype());
        let parts = [shaders::ACTIVATION, shaders::LINEAR_GATE_OF_SUM];
        let shader = matvec(cx, decoder, &parts, "linear__gate_of_sum").with("EPS_BITS", add.eps.to_bits());
        let sum = [Bind::Act(add.residual), Bind::Weight(add.weight, 0)];
        linear::gate(gate, glu, add.y, &sum, (shader, 1), cx);
    }
}
