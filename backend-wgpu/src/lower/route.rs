//! `route`: the logits of all experts, then the choice.

use gemma4_core::abi::{ROUTE_EXPERTS, RouteParams};
use gemma4_core::ops::route::Route;
use gemma4_core::program::{Class, Rows};

use super::{Bind, Count, Lowering, ONE, narrow};
use crate::error::WgpuError;
use crate::shaders::{self, Shader};

/// Experts and rows of a workgroup of `route__tile`.
const TILE: u32 = 4;

pub(super) fn route(op: &Route, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let proj = cx.weight(op.proj).clone();
    let experts = narrow(proj.rows());
    if experts > ROUTE_EXPERTS {
        return Err(cx.device.limit(
            "a router",
            experts.into(),
            "experts",
            ROUTE_EXPERTS.into(),
            "ROUTE_EXPERTS",
        ));
    }
    let layout = proj.layout();
    let cols = cx.cols(op.x);
    let mut params = RouteParams {
        cols,
        stride: layout.stride,
        tails: layout.tails,
        first: 0,
        part_experts: experts,
        experts,
        top_k: cx.cols(op.experts),
        eps: op.eps,
        factor: 1.0 / (cols as f32).sqrt(),
        picked: u32::from(cx.program.spec(op.x).rows == Rows::Picked),
    };
    let rows = cx.each_row(op.x);
    let logits = cx.scratch(cx.program.capacity(op.x) as u64 * u64::from(experts) * 4);
    for (part, range) in proj.parts().iter().map(|part| part.rows.clone()).enumerate() {
        params.first = narrow(range.start);
        params.part_experts = narrow(range.len());
        let binds = vec![
            Bind::Weight(op.proj, part),
            Bind::Act(op.x),
            Bind::Weight(op.scale, 0),
            Bind::ScratchMut(logits),
        ];
        let (entry, each) = match cx.program.class {
            Class::Decode => ("route__logits", 1),
            Class::Prefill => ("route__tile", TILE),
        };
        let grid = [Count::Fixed(params.part_experts.div_ceil(each)), cx.rows(op.x, each, 1), ONE];
        cx.launch("route", shader(proj.dtype(), entry), binds, &params, grid);
    }
    let binds = vec![
        Bind::Scratch(logits),
        Bind::Weight(op.expert_scale, 0),
        Bind::ActMut(op.experts),
        Bind::ActMut(op.weights),
    ];
    cx.launch("route", shader(proj.dtype(), "route__choose"), binds, &params, [rows, ONE, ONE]);
    Ok(())
}

fn shader(dtype: gemma4_core::tensor::DType, entry: &'static str) -> Shader {
    Shader::new(&[shaders::decoder(dtype), &[shaders::REDUCE, shaders::ROUTE]].concat(), entry)
}
