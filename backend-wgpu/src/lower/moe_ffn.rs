//! `moe_ffn`: in the decode class a matvec for each pair of a row and an expert; in the prefill class pairs are sorted by
//! expert, and each tile of pairs decodes its weights once.

use gemma4_core::abi::{MOE_OUTPUTS, MOE_TILE_PAIRS, MOE_TILE_ROWS, MoeFfnParams, ROW_THREADS};
use gemma4_core::ops::moe_ffn::{GateUp, MoeFfn};
use gemma4_core::program::{Class, Rows, Weight};

use super::linear::{CHUNK, OUTPUTS, THREADS, lanes, matvec};
use super::{Bind, Count, Lowering, ONE, Scratch, narrow};
use crate::error::WgpuError;
use crate::shaders::{self, Shader};

/// What a dispatch of the first matrices computes; the constant `FORM` of the shaders.
#[derive(Clone, Copy)]
enum Form {
    /// Both products and their gate.
    Both,
    /// One product: of the gate, or of `down`.
    One,
    /// The product of the second operand, and the gate.
    Up,
}

/// What all dispatches of an op share.
struct Moe<'a> {
    op: &'a MoeFfn,
    class: Class,
    rows: Rows,
    /// Room for pairs.
    pairs: u32,
    base: MoeFfnParams,
    hidden: Scratch,
    /// What experts make of pairs, before it is summed; if it is needed.
    apart: Option<Scratch>,
    /// Pairs by expert, and tiles, in the prefill class.
    lists: Option<Scratch>,
}

pub(super) fn moe_ffn(op: &MoeFfn, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let class = cx.program.class;
    let down = cx.weight(op.down).clone();
    let (ffn, cols, experts) = (narrow(down.cols()), narrow(down.rows()), narrow(down.experts()));
    let top_k = cx.cols(op.experts);
    let rows = cx.program.spec(op.x).rows;
    let pairs = narrow(cx.program.capacity(op.x)) * top_k;
    let wide = |count: u32, words: u32| u64::from(count) * u64::from(words) * 4;
    let hidden = cx.scratch(wide(pairs, ffn));
    let apart = class == Class::Prefill || down.parts().len() > 1;
    let apart = apart.then(|| cx.scratch(wide(pairs, cols)));
    let tiles = pairs / MOE_TILE_PAIRS + experts;
    let lists = (class == Class::Prefill).then(|| cx.scratch(wide(pairs + 3 * tiles, 1)));
    let picked = u32::from(rows == Rows::Picked);
    let base = MoeFfnParams { top_k, experts, pairs, picked, ..MoeFfnParams::default() };
    let moe = Moe { op, class, rows, pairs, base, hidden, apart, lists };

    if let Some(lists) = lists {
        let binds = vec![Bind::Act(op.experts), Bind::ScratchMut(lists)];
        let grid = [Count::Fixed(experts), ONE, ONE];
        cx.launch("moe_ffn", Shader::new(&[shaders::MOE_FFN], "moe_ffn__sort"), binds, &base, grid);
    }
    match op.gate_up {
        GateUp::Fused(both) => moe.product(cx, both, Form::Both, ffn),
        GateUp::Split { gate, up } => {
            moe.product(cx, gate, Form::One, ffn);
            moe.product(cx, up, Form::Up, ffn);
        }
    }
    moe.down(cx, cols);
    if let Some(apart) = apart {
        let params = MoeFfnParams { outputs: cols, ..base };
        let binds = vec![Bind::Scratch(apart), Bind::Act(op.weights), Bind::ActMut(op.out)];
        let grid = [Count::Fixed(cols.div_ceil(4 * ROW_THREADS)), cx.each_row(op.x), ONE];
        cx.launch("moe_ffn", Shader::new(&[shaders::MOE_FFN], "moe_ffn__combine"), binds, &params, grid);
    }
    Ok(())
}

impl Moe<'_> {
    /// A product of single pairs: its shader, the lanes of a group, and the outputs of a workgroup.
    fn matvec(
        cx: &Lowering<'_>,
        weight: &crate::Weight,
        entries: [&'static str; 2],
        lanes: u32,
        ranks: u32,
    ) -> (Shader, u32) {
        let decoder = [shaders::decoder(weight.dtype()), &[shaders::ACTIVATION]].concat();
        let [whole, any] = entries;
        if narrow(weight.cols()) % CHUNK == 0 {
            let shader = matvec(cx, &decoder, shaders::MOE_MATVEC, whole);
            let shader = shader.with("LANES", lanes).with("ROWS", 1).with("RANKS", ranks);
            (shader, THREADS / (lanes * ranks) * OUTPUTS)
        } else {
            (matvec(cx, &decoder, shaders::MOE_MATVEC, any), MOE_OUTPUTS)
        }
    }

    /// Parameters for each part of a weight.
    fn parts(&self, weight: &crate::Weight, outputs: u32, divisor: u32) -> Vec<MoeFfnParams> {
        let layout = weight.layout();
        let of = |part: &crate::weights::Part| MoeFfnParams {
            cols: narrow(weight.cols()),
            stride: layout.stride,
            tails: layout.tails,
            first: narrow(part.rows.start / weight.rows()),
            part_experts: narrow(part.rows.len() / weight.rows()),
            expert_rows: narrow(weight.rows()),
            outputs,
            divisor,
            ..self.base
        };
        weight.parts().iter().map(of).collect()
    }

    /// A product of the inputs with the first matrices.
    fn product(&self, cx: &mut Lowering<'_>, handle: Weight, form: Form, ffn: u32) {
        let weight = cx.weight(handle).clone();
        for (part, params) in self.parts(&weight, ffn, self.base.top_k).into_iter().enumerate() {
            let w = Bind::Weight(handle, part);
            let x = Bind::Act(self.op.x);
            if self.class == Class::Prefill {
                self.tile(cx, &weight, form, &params, [x, w, Bind::ScratchMut(self.hidden)]);
                continue;
            }
            let lanes = lanes(self.base.top_k * narrow(weight.rows()), params.cols);
            let entries = ["moe_ffn__gate_up", "moe_ffn__gate_up_any"];
            let (shader, outputs) = Self::matvec(cx, &weight, entries, lanes, 1);
            // Half of the rows of a fused matrix are outputs; without whole chunks, a lane takes both.
            let both = matches!(form, Form::Both) && params.cols % CHUNK == 0;
            let outputs = if both { outputs / 2 } else { outputs };
            let shader = shader.with("FORM", form as u32);
            let (experts, weights) = (Bind::Act(self.op.experts), Bind::Act(self.op.weights));
            let binds = vec![x, w, experts, weights, Bind::ScratchMut(self.hidden)];
            let grid = [Count::Fixed(ffn.div_ceil(outputs)), self.each_pair(), ONE];
            cx.launch("moe_ffn", shader, binds, &params, grid);
        }
    }

    /// The product with `down`.
    fn down(&self, cx: &mut Lowering<'_>, cols: u32) {
        let handle = self.op.down;
        let weight = cx.weight(handle).clone();
        for (part, params) in self.parts(&weight, cols, 1).into_iter().enumerate() {
            let (x, w) = (Bind::Scratch(self.hidden), Bind::Weight(handle, part));
            if let (Class::Prefill, Some(apart)) = (self.class, self.apart) {
                self.tile(cx, &weight, Form::One, &params, [x, w, Bind::ScratchMut(apart)]);
                continue;
            }
            let lanes = lanes_of_rank(self.base.top_k * cols, params.cols);
            let most = if self.apart.is_some() { 1 } else { THREADS / lanes };
            let ranks = self.base.top_k.next_power_of_two().min(most);
            let (shader, outputs) =
                Self::matvec(cx, &weight, ["moe_ffn__down", "moe_ffn__down_any"], lanes, ranks);
            let (shader, out, rows) = match self.apart {
                Some(apart) => (shader.with("APART", 1), Bind::ScratchMut(apart), self.each_pair()),
                None => (shader, Bind::ActMut(self.op.out), cx.each_row(self.op.x)),
            };
            let binds = vec![x, w, Bind::Act(self.op.experts), Bind::Act(self.op.weights), out];
            let grid = [Count::Fixed(cols.div_ceil(outputs)), rows, ONE];
            cx.launch("moe_ffn", shader, binds, &params, grid);
        }
    }

    /// A dispatch over all tiles that there may be.
    fn tile(
        &self,
        cx: &mut Lowering<'_>,
        weight: &crate::Weight,
        form: Form,
        params: &MoeFfnParams,
        [x, w, out]: [Bind; 3],
    ) {
        let Some(lists) = self.lists else { return };
        let outputs = if matches!(form, Form::Both) { MOE_TILE_ROWS / 2 } else { MOE_TILE_ROWS };
        let tiles = self.pairs / MOE_TILE_PAIRS + self.base.experts;
        let grid = [Count::Fixed(params.outputs.div_ceil(outputs)), Count::Fixed(tiles), ONE];
        let entry = if params.cols % CHUNK == 0 { "moe_ffn__tile" } else { "moe_ffn__tile_any" };
        let parts = [shaders::decoder(weight.dtype()), &[shaders::ACTIVATION, shaders::MOE_TILES]].concat();
        let shader = Shader::new(&parts, entry).with("FORM", form as u32);
        cx.launch("moe_ffn", shader, vec![x, w, Bind::Scratch(lists), out], params, grid);
    }

    fn each_pair(&self) -> Count {
        Count::Rows { of: self.rows, per: 1, times: self.base.top_k }
    }
}

/// Lanes that share an output of one rank: half as many as otherwise, if that leaves fewer of them idle.
fn lanes_of_rank(outputs: u32, cols: u32) -> u32 {
    let lanes = lanes(outputs, cols);
    let chunks = cols.div_ceil(CHUNK);
    let idle = |lanes: u32| chunks.next_multiple_of(lanes) - chunks;
    if lanes > 8 && idle(lanes / 2) < idle(lanes) { lanes / 2 } else { lanes }
}
