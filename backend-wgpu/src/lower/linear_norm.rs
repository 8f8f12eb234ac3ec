//! `linear` of one row with the `norm_add` of its outputs and the norm of the sum: one dispatch, whose last workgroup does what
//! follows the product.
//!
//! Steps of several rows have dispatches of their own for that, a workgroup a row; the bits of a row are the same.

use gemma4_core::abi::LinearNormParams;
use gemma4_core::ops::linear::Linear;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;
use gemma4_core::program::{Act, Class, Weight};

use super::linear::{CHUNK, OUTPUTS, THREADS, lanes, matvec, split};
use super::{Bind, Lowering, ONE, narrow, norm};
use crate::shaders;

/// The ops.
pub(super) struct Ended<'a> {
    pub(super) linear: &'a Linear,
    /// A branch that is normed with a weight and added first, with scale 1.
    pub(super) dense: Option<(Act, Weight)>,
    pub(super) add: &'a NormAdd,
    pub(super) norm: &'a RmsNorm,
}

impl Ended<'_> {
    /// Whether they are one dispatch.
    pub(super) fn fuse(&self, cx: &Lowering<'_>) -> bool {
        let &Self { linear, dense, add, norm } = self;
        let &[weight] = &linear.weights[..] else { return false };
        let weight = cx.weight(weight);
        let bindings = if dense.is_some() { 10 } else { 8 };
        cx.program.class == Class::Decode
            && cx.program.capacity(linear.x) == 1
            && cx.device.coherent
            && cx.device.variants.subgroups
            && cx.device.limits.max_storage_buffers_per_shader_stage >= bindings
            && weight.parts().len() == 1
            && weight.cols().is_multiple_of(CHUNK as usize)
            && norm::fuses(add, norm, cx)
            && add.y == linear.out
            && ![linear.x, linear.out, add.residual].contains(&norm.out)
            && linear.x != add.residual
    }

    /// The dispatch.
    pub(super) fn launch(&self, cx: &mut Lowering<'_>) {
        let &Self { linear, dense, add, norm } = self;
        let handle = linear.weights[0];
        let weight = cx.weight(handle).clone();
        let (cols, outputs, layout) = (narrow(weight.cols()), narrow(weight.rows()), weight.layout());
        let params = LinearNormParams {
            cols,
            stride: layout.stride,
            tails: layout.tails,
            outputs,
            eps: add.eps,
            scale: add.scale,
            next_eps: norm.eps,
        };
        let lanes = lanes(outputs, cols);
        let entry = if dense.is_some() { "linear__norm_add_twice" } else { "linear__norm_add" };
        let parts = [shaders::QUADS, shaders::ARRIVE, shaders::LINEAR_NORM_ADD];
        let shader = matvec(cx, shaders::decoder(weight.dtype()), &parts, entry);
        let shader = shader.with("LANES", lanes).with("ROWS", 1);
        let mut binds = vec![
            Bind::Act(linear.x),
            Bind::Weight(handle, 0),
            Bind::ActMut(linear.out),
            Bind::ActMut(add.residual),
            Bind::ActMut(norm.out),
            Bind::Weight(add.weight, 0),
            Bind::Weight(norm.weight, 0),
            cx.arrived(1),
        ];
        if let Some((act, weight)) = dense {
            binds.extend([Bind::Act(act), Bind::Weight(weight, 0)]);
        }
        let [across, down] = split(outputs.div_ceil(OUTPUTS * THREADS / lanes));
        cx.launch("linear", shader, binds, &params, [across, down, ONE]);
    }
}
