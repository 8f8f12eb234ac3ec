// moe_ffn, decode class: products of single pairs of a row and an expert. Follows common/matvec.wgsl.
//
// Spec    core/src/ops/moe_ffn.rs
// Launch  each part of each weight; groups of LANES lanes
//         moe_ffn__gate_up  x: LANES_THREADS / LANES * 4 rows of the matrix a workgroup; y: pairs
//         moe_ffn__down     x: LANES_THREADS / (LANES * RANKS) * 4 columns a workgroup; y: rows, or pairs where `down` has
//                           several parts
//         .._any            for rows that are not of whole chunks; x: MOE_OUTPUTS outputs; y: the same
// Experts of other parts are left to their dispatches.

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, cols], or hidden [rows, top_k, ffn]
@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;    // the same
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;     // [part's experts, expert_rows, stride] words
@group(0) @binding(2) var<storage, read> experts: array<u32>;     // [rows, top_k]
@group(0) @binding(3) var<storage, read> weights: array<f32>;     // [rows, top_k]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;   // hidden, [rows, top_k, cols], or [rows, cols]
@group(1) @binding(0) var<uniform> params: MoeFfnParams;
@group(1) @binding(1) var<uniform> step: StepState;

// What a dispatch computes of gelu(gate) * up: all of it, the gate's product, or the rest.
const BOTH: u32 = 0u;
const GATE: u32 = 1u;
const UP: u32 = 2u;
override FORM: u32 = BOTH;
// Ranks that groups of lanes of `moe_ffn__down` share; a power of two.
override RANKS: u32 = 1u;
// Whether `moe_ffn__down` keeps the pairs of a row apart.
override APART: bool = false;

fn in_part(expert: u32) -> bool {
  return expert >= params.first && expert - params.first < params.part_experts;
}

// The first word of an expert, which is in this part.
fn start_of(expert: u32) -> u32 { return (expert - params.first) * params.expert_rows * params.stride; }

fn store(pair: u32, f: u32, gate: f32, up: f32) {
  if f >= params.outputs { return; }
  let at = pair * params.outputs + f;
  switch FORM {
    case GATE: { out[at] = gate; }
    case UP: { out[at] = gelu_tanh(out[at]) * gate; }
    default: { out[at] = gelu_tanh(gate) * up; }
  }
}

@compute @workgroup_size(LANES_THREADS)
fn moe_ffn__gate_up(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let pair = group.y;
  let expert = experts[pair];
  if !in_part(expert) { return; }
  let quad = group.x * (LANES_THREADS / LANES) + index / LANES;
  let last = params.outputs - 1u;
  var f = 4u * quad;
  var rows = min(vec4(f) + vec4(0u, 1u, 2u, 3u), vec4(last));
  if FORM == BOTH {
    f = 2u * quad;
    // Two rows of the gate, and the same two of the second operand.
    rows = min(vec4(f) + vec4(0u, 1u, 0u, 1u), vec4(last)) + vec4(0u, 0u, params.outputs, params.outputs);
  }
  let starts = vec4(start_of(expert)) + rows * params.stride;
  let input = pair / params.top_k * (params.cols / 4u);
  let sums = matvec(starts, params.tails, params.cols / 32u, index & (LANES - 1u), input, 1u);
  let total = lanes_sum(sums.a, index);
  if (index & (LANES - 1u)) != 0u { return; }
  if FORM == BOTH {
    store(pair, f, total.x, total.z);
    store(pair, f + 1u, total.y, total.w);
  } else {
    store(pair, f, total.x, 0.0);
    store(pair, f + 1u, total.y, 0.0);
    store(pair, f + 2u, total.z, 0.0);
    store(pair, f + 3u, total.w, 0.0);
  }
}

// What groups of lanes make of their ranks; the smallest groups have eight lanes.
override RANKED: u32 = LANES_THREADS / 8u;
var<workgroup> ranked: array<vec4<f32>, RANKED>;

@compute @workgroup_size(LANES_THREADS)
fn moe_ffn__down(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  if APART && !in_part(experts[group.y]) { return; }
  let own = index / LANES;
  let output = 4u * (group.x * (LANES_THREADS / (LANES * RANKS)) + own / RANKS);
  let rows = min(vec4(output) + vec4(0u, 1u, 2u, 3u), vec4(params.outputs - 1u)) * params.stride;
  let ranks = select(params.top_k, 1u, APART);
  var sum = vec4(0.0);
  for (var rank = own & (RANKS - 1u); rank < ranks; rank += RANKS) {
    let pair = group.y * ranks + rank;
    let starts = vec4(start_of(experts[pair])) + rows;
    let input = pair * (params.cols / 4u);
    let sums = matvec(starts, params.tails, params.cols / 32u, index & (LANES - 1u), input, 1u);
    sum = fma(vec4(select(weights[pair], 1.0, APART)), sums.a, sum);
  }
  sum = lanes_sum(sum, index);
  if (index & (LANES - 1u)) == 0u { ranked[own] = sum; }
  workgroupBarrier();
  if (index & (LANES * RANKS - 1u)) != 0u { return; }
  for (var i = 1u; i < RANKS; i++) { sum += ranked[own + i]; }
  let at = group.y * params.outputs + output;
  if output < params.outputs { out[at] = sum.x; }
  if output + 1u < params.outputs { out[at + 1u] = sum.y; }
  if output + 2u < params.outputs { out[at + 2u] = sum.z; }
  if output + 3u < params.outputs { out[at + 3u] = sum.w; }
}

var<workgroup> any_partial: array<vec2<f32>, 32u * MOE_OUTPUTS>;

// The sum over the 32 lanes of an output, in lane 0 of them.
fn any_sum(value: vec2<f32>, index: u32) -> vec2<f32> {
  any_partial[index] = value;
  for (var half = 16u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (index & 31u) < half { any_partial[index] += any_partial[index + half]; }
  }
  return any_partial[index];
}

@compute @workgroup_size(32u * MOE_OUTPUTS)
fn moe_ffn__gate_up_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let expert = experts[group.y];
  if !in_part(expert) { return; }
  let f = group.x * MOE_OUTPUTS + (index >> 5u);
  let gate = start_of(expert) + min(f, params.outputs - 1u) * params.stride;
  let up = gate + params.outputs * params.stride;
  let row = group.y / params.top_k * params.cols;
  var sums = vec2(0.0);
  for (var c = index & 31u; c < params.cols; c += 32u) {
    let value = x[row + c];
    sums.x = fma(weight_at(gate, gate + params.tails, c), value, sums.x);
    if FORM == BOTH { sums.y = fma(weight_at(up, up + params.tails, c), value, sums.y); }
  }
  sums = any_sum(sums, index);
  if (index & 31u) == 0u { store(group.y, f, sums.x, sums.y); }
}

@compute @workgroup_size(32u * MOE_OUTPUTS)
fn moe_ffn__down_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  if APART && !in_part(experts[group.y]) { return; }
  let output = group.x * MOE_OUTPUTS + (index >> 5u);
  let ranks = select(params.top_k, 1u, APART);
  var sum = 0.0;
  for (var rank = 0u; rank < ranks; rank++) {
    let pair = group.y * ranks + rank;
    let row = start_of(experts[pair]) + min(output, params.outputs - 1u) * params.stride;
    let weight = select(weights[pair], 1.0, APART);
    for (var c = index & 31u; c < params.cols; c += 32u) {
      sum = fma(weight_at(row, row + params.tails, c) * weight, x[pair * params.cols + c], sum);
    }
  }
  sum = any_sum(vec2(sum, 0.0), index).x;
  if (index & 31u) == 0u && output < params.outputs { out[group.y * params.outputs + output] = sum; }
}
