//! `linear`: a dispatch for each part of each weight, or for one row and up to three weights of one type.

use gemma4_core::abi::LinearParams;
use gemma4_core::ops::attn_prepare::{AttnPrepare, Values};
use gemma4_core::ops::glu::{Activation, Glu};
use gemma4_core::ops::linear::Linear;
use gemma4_core::ops::softcap::Softcap;
use gemma4_core::program::{Act, Class, Rows, Weight};

use super::{Bind, Count, Lowering, ONE, Scratch, attn_prepare, linear_tiles, narrow};
use crate::error::WgpuError;
use crate::shaders::{self, Part, Shader};

/// Invocations of a workgroup of `common/matvec.wgsl`, where nothing else is said.
pub(super) const THREADS: u32 = 128;
/// Outputs that a group of lanes computes together.
pub(super) const OUTPUTS: u32 = 4;
/// Most rows of activations of a workgroup.
const ROWS: u32 = 8;
/// Columns that a lane takes at once.
pub(super) const CHUNK: u32 = 32;
/// Outputs of a workgroup of `linear__any`.
const ANY_OUTPUTS: u32 = 8;
/// Fewest invocations that keep the memory of a large GPU busy: one has 72 bytes of `Q4_K` under way, so these have 4.7 MB, what
/// an H200 delivers in a microsecond, the latency of its memory under load.
const ENOUGH: u32 = 64 << 10;
/// Most workgroups along an axis.
const MOST: u32 = 65_535;

/// So many workgroups along x and y; a shader leaves the last ones without work.
pub(super) fn split(count: u32) -> [Count; 2] {
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

/// Fewest columns of a matrix for which a dispatch of one row runs long enough to gain from more loads under way at once.
///
/// On an H200, GB/s of `Q4_K` by columns and outputs:
///
/// | shape                           | plain | more under way |
/// |---------------------------------|-------|----------------|
/// | `linear__glu`, 5376x43008       | 2291  | 2554           |
/// | `linear__glu`, 2560x20480       | 1837  | 1992           |
/// | `linear`, 64 lanes, 21504x5376  | 1904  | 2193           |
/// | `linear`, 64 lanes, 8192x5376   | 1599  | 1799           |
/// | `linear`, 128 lanes, 10240x2560 | 1415  | 1361           |
///
/// That is of one dispatch over and over. Among other dispatches short ones lost: E4B, 2560 wide, made 235 tokens a second
/// instead of 248 with two chunks at once. Such machine code is three to four times as long (28 to 44 KiB, not 11), and each
/// dispatch has to fetch it, which is the likely reason.
const WIDE_COLS: u32 = 5376;

/// Invocations of a workgroup of `linear`: no bit depends on it. Several rows of activations take more registers.
fn threads(lanes: u32, rows: u32, cols: u32) -> u32 {
    if lanes == 64 && rows == 1 && cols >= WIDE_COLS { 2 * THREADS } else { THREADS }
}

/// Chunks that a lane of `linear__glu` loads at once: no bit depends on it.
fn at_once(rows: u32, cols: u32) -> u32 {
    if rows == 1 && cols >= WIDE_COLS { 4 } else { 1 }
}

/// An entry point of a file that needs `common/matvec.wgsl`.
pub(super) fn matvec(cx: &Lowering<'_>, decoder: &[Part], op: &[Part], entry: &'static str) -> Shader {
    let lanes = if cx.device.variants.subgroups { shaders::LANES_SUBGROUP } else { shaders::LANES };
    let shader = Shader::new(&[decoder, &[shaders::MATVEC, lanes], op].concat(), entry);
    if cx.device.variants.subgroups { shader.with("SUBGROUP", cx.device.subgroup) } else { shader }
}

/// Rows of a workgroup for as many as `act` may have.
fn rows_of(cx: &Lowering<'_>, act: Act) -> u32 {
    narrow(cx.program.capacity(act)).next_power_of_two().min(ROWS)
}

/// Whether the products with a gate and with what it multiplies are one dispatch with the `glu` that follows.
pub(super) fn fuses(linear: &Linear, glu: &Glu, cx: &Lowering<'_>) -> bool {
    let &[gate, up] = &linear.weights[..] else { return false };
    let (gate, up) = (cx.weight(gate), cx.weight(up));
    let shape = |weight: &crate::Weight| (weight.dtype(), weight.rows(), weight.cols());
    let halves = [glu.gate, glu.up].map(|columns| (columns.act, columns.start));
    cx.program.class == Class::Decode
        && glu.activation == Activation::GeluTanh
        && shape(gate) == shape(up)
        && gate.cols().is_multiple_of(CHUNK as usize)
        && halves == [(linear.out, 0), (linear.out, gate.rows())]
        && cx.program.cols(glu.out) == gate.rows()
        && cx.program.read_once(linear.out)
}

/// Whether a product is one dispatch with the `glu` whose gate it is, where another activation is what the gate opens.
pub(super) fn gates(linear: &Linear, glu: &Glu, cx: &Lowering<'_>) -> bool {
    let &[gate] = &linear.weights[..] else { return false };
    let gate = cx.weight(gate);
    cx.program.class == Class::Decode
        && glu.activation == Activation::GeluTanh
        && gate.cols().is_multiple_of(CHUNK as usize)
        && (glu.gate.act, glu.gate.start) == (linear.out, 0)
        && ![linear.out, linear.x].contains(&glu.up.act)
        && cx.program.cols(glu.out) == gate.rows()
        && cx.program.read_once(linear.out)
}

/// Both.
pub(super) fn linear_gate(linear: &Linear, glu: &Glu, cx: &mut Lowering<'_>) {
    let handle = linear.weights[0];
    let weight = cx.weight(handle).clone();
    let (lanes, rows) = (lanes(narrow(weight.rows()), narrow(weight.cols())), rows_of(cx, linear.x));
    let parts = [shaders::ACTIVATION, shaders::LINEAR_GATE];
    let shader = matvec(cx, shaders::decoder(weight.dtype()), &parts, "linear__gate");
    let shader = shader.with("LANES", lanes).with("ROWS", rows);
    for (part, range) in weight.parts().iter().map(|part| part.rows.clone()).enumerate() {
        let params = LinearParams {
            out_cols: cx.cols(glu.out),
            first: narrow(range.start),
            outputs: narrow(range.len()),
            up_cols: cx.cols(glu.up.act),
            up_start: narrow(glu.up.start),
            ..of_weight(&weight, linear.x, cx)
        };
        let binds = vec![
            Bind::Act(linear.x),
            Bind::Weight(handle, part),
            Bind::ActMut(glu.out),
            Bind::Act(glu.up.act),
        ];
        let [x, y] = split(params.outputs.div_ceil(OUTPUTS * THREADS / lanes));
        cx.launch("linear", shader.clone(), binds, &params, [x, y, cx.rows(glu.out, rows, 1)]);
    }
}

/// What the rows of a weight are like, and which rows of activations it meets.
pub(super) fn of_weight(weight: &crate::Weight, x: Act, cx: &Lowering<'_>) -> LinearParams {
    let layout = weight.layout();
    LinearParams {
        cols: narrow(weight.cols()),
        stride: layout.stride,
        tails: layout.tails,
        picked: u32::from(cx.program.spec(x).rows == Rows::Picked),
        ..LinearParams::default()
    }
}

/// Where a product goes.
#[derive(Clone)]
struct Target {
    bind: Bind,
    cols: u32,
    /// What the outputs are capped to.
    cap: Option<f32>,
}

impl Target {
    fn act(act: Act, cx: &Lowering<'_>) -> Self {
        Self { bind: Bind::ActMut(act), cols: cx.cols(act), cap: None }
    }
}

/// Most weights of a dispatch.
const STACK: usize = 3;

/// How many of the first of these weights are one dispatch: those of the first one's type, all in one part.
fn stacked(handles: &[Weight], cx: &Lowering<'_>) -> usize {
    let first = cx.weight(handles[0]);
    let alike = |weight: &crate::Weight| weight.dtype() == first.dtype() && weight.parts().len() == 1;
    if cx.program.class != Class::Decode || !first.cols().is_multiple_of(CHUNK as usize) {
        return 1;
    }
    handles.iter().take(STACK).take_while(|&&handle| alike(cx.weight(handle))).count().max(1)
}

/// Up to three weights, whose outputs follow one another from column `first` on, with one row.
fn stack(x: Act, out: &Target, handles: &[Weight], first: u32, lanes: u32, cx: &mut Lowering<'_>) {
    let weight = cx.weight(handles[0]).clone();
    let outputs: [u32; STACK] =
        std::array::from_fn(|i| handles.get(i).map_or(0, |&handle| narrow(cx.weight(handle).rows())));
    let [one, second, third] = outputs;
    let params =
        LinearParams { first, outputs: one, second, third, out_cols: out.cols, ..of_weight(&weight, x, cx) };
    // The decoder's first part reads one weight.
    let decoder = [&[shaders::WEIGHTS_STACK], &shaders::decoder(weight.dtype())[1..]].concat();
    let shader = matvec(cx, &decoder, &[shaders::LINEAR_STACK], "linear__stack");
    let shader = shader.with("LANES", lanes).with("ROWS", 1);
    // A binding needs a buffer, if none is read from it.
    let weights = [0, 1, 2].map(|i| Bind::Weight(*handles.get(i).unwrap_or(&handles[0]), 0));
    let binds = [&[Bind::Act(x), out.bind.clone()], &weights[..]].concat();
    // No workgroup has outputs of two weights.
    let groups = outputs.iter().map(|outputs| outputs.div_ceil(OUTPUTS * THREADS / lanes)).sum();
    let [across, down] = split(groups);
    cx.launch("linear", shader, binds, &params, [across, down, ONE]);
}

/// Both. The parts of two weights of one shape are alike.
pub(super) fn linear_glu(linear: &Linear, glu: &Glu, cx: &mut Lowering<'_>) {
    let weight = cx.weight(linear.weights[0]).clone();
    let (cols, outputs) = (narrow(weight.cols()), narrow(weight.rows()));
    let (lanes, rows) = (lanes(2 * outputs, cols), rows_of(cx, linear.x));
    // The decoder's first part reads one weight.
    let decoder = [&[shaders::WEIGHTS_PAIR], &shaders::decoder(weight.dtype())[1..]].concat();
    let shader = matvec(cx, &decoder, &[shaders::ACTIVATION, shaders::LINEAR_GLU], "linear__glu");
    let shader = shader.with("LANES", lanes).with("ROWS", rows).with("AT_ONCE", at_once(rows, cols));
    for (part, range) in weight.parts().iter().map(|part| part.rows.clone()).enumerate() {
        let params = LinearParams {
            out_cols: cx.cols(glu.out),
            first: narrow(range.start),
            outputs: narrow(range.len()),
            ..of_weight(&weight, linear.x, cx)
        };
        let [gate, up] = [0, 1].map(|i| Bind::Weight(linear.weights[i], part));
        let binds = vec![Bind::Act(linear.x), gate, Bind::ActMut(glu.out), up];
        let [x, y] = split(params.outputs.div_ceil(OUTPUTS / 2 * THREADS / lanes));
        cx.launch("linear", shader.clone(), binds, &params, [x, y, cx.rows(glu.out, rows, 1)]);
    }
}

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) {
    let out = Target::act(op.out, cx);
    product(op.x, &out, &op.weights, cx);
}

/// Whether a product and the `softcap` of its outputs are one dispatch for each part.
pub(super) fn caps(linear: &Linear, softcap: &Softcap, cx: &Lowering<'_>) -> bool {
    cx.program.class == Class::Decode
        && softcap.x == linear.out
        && linear.weights.len() == 1
        && cx.weight(linear.weights[0]).cols().is_multiple_of(CHUNK as usize)
}

/// Both.
pub(super) fn linear_softcap(linear: &Linear, softcap: &Softcap, cx: &mut Lowering<'_>) {
    let out = Target { cap: Some(softcap.cap), ..Target::act(linear.out, cx) };
    product(linear.x, &out, &linear.weights, cx);
}

/// Whether values are a dispatch of their own behind queries and keys: then they go to a buffer of their own, and need
/// not wait for those.
pub(super) fn parts_with_values(linear: &Linear, prepare: &AttnPrepare, cx: &Lowering<'_>) -> bool {
    cx.program.class == Class::Decode
        && prepare.qkv == linear.out
        && cx.program.read_once(linear.out)
        && linear.weights.len() == 3
        && prepare.own.is_some_and(|own| own.values != Values::RawKeys)
        && stacked(&linear.weights, cx) == 2
}

/// The products of both, and then the `attn_prepare` of what they are.
pub(super) fn linear_values_apart(
    linear: &Linear,
    prepare: &AttnPrepare,
    cx: &mut Lowering<'_>,
) -> Result<(), WgpuError> {
    let (first, values) = linear.weights.split_at(2);
    let out = Target::act(linear.out, cx);
    product(linear.x, &out, first, cx);
    let cols = narrow(cx.weight(values[0]).rows());
    let apart = cx.scratch(cx.program.capacity(linear.x) as u64 * u64::from(cols) * 4);
    let out = Target { bind: Bind::ScratchMut(apart), cols, cap: None };
    product(linear.x, &out, values, cx);
    attn_prepare::attn_prepare(prepare, Some(apart), cx)
}

/// Products with weights whose outputs follow one another.
fn product(x: Act, out: &Target, weights: &[Weight], cx: &mut Lowering<'_>) {
    let mut first = 0;
    let mut rest = weights;
    let rounded = linear_tiles::rounded(x, weights, cx);
    while !rest.is_empty() {
        let (these, after) = rest.split_at(stacked(rest, cx));
        let outputs: Vec<u32> = these.iter().map(|&handle| narrow(cx.weight(handle).rows())).collect();
        let all = outputs.iter().sum();
        // Lanes decide the bits of a row, so they are those of the stack in steps of several rows too. Such a step takes a
        // weight at a time: it is long beside a dispatch, and a shader with three loops over eight rows is long to compile.
        let lanes = lanes(all, narrow(cx.weight(these[0]).cols()));
        if these.len() > 1 && rows_of(cx, x) == 1 {
            stack(x, out, these, first, lanes, cx);
        } else {
            let mut first = first;
            for (&handle, outputs) in these.iter().zip(outputs) {
                one((x, rounded), out, handle, first, lanes, cx);
                first += outputs;
            }
        }
        first += all;
        rest = after;
    }
}

/// A product with a weight, a dispatch for each part of it. `lanes` are those of the decode class, `rounded` is for prompts.
fn one(
    (x, rounded): (Act, Option<Scratch>),
    out: &Target,
    handle: Weight,
    mut first: u32,
    lanes: u32,
    cx: &mut Lowering<'_>,
) {
    let weight = cx.weight(handle).clone();
    let decoder = shaders::decoder(weight.dtype());
    for (part, outputs) in weight.parts().iter().map(|part| narrow(part.rows.len())).enumerate() {
        let params = LinearParams { first, outputs, out_cols: out.cols, ..of_weight(&weight, x, cx) };
        first += outputs;
        let binds = vec![Bind::Act(x), Bind::Weight(handle, part), out.bind.clone()];
        if cx.program.class == Class::Prefill && linear_tiles::fits(weight.cols()) {
            linear_tiles::launch(x, rounded, weight.dtype(), binds, &params, cx);
            continue;
        }
        let parts = [shaders::ACTIVATION, shaders::LINEAR];
        if !params.cols.is_multiple_of(CHUNK) {
            let shader = matvec(cx, decoder, &parts, "linear__any");
            let [across, down] = split(outputs.div_ceil(ANY_OUTPUTS));
            cx.launch("linear", shader, binds, &params, [across, down, cx.each_row(x)]);
            continue;
        }
        let rows = rows_of(cx, x);
        let threads = threads(lanes, rows, params.cols);
        let shader = matvec(cx, decoder, &parts, "linear");
        let shader = shader.with("LANES", lanes).with("ROWS", rows).with("LANES_THREADS", threads);
        let shader = match out.cap {
            Some(cap) => shader.with("CAP_BITS", cap.to_bits()),
            None => shader,
        };
        let [across, down] = split(outputs.div_ceil(OUTPUTS * threads / lanes));
        cx.launch("linear", shader, binds, &params, [across, down, cx.rows(x, rows, 1)]);
    }
}
