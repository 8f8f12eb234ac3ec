// moe_ffn: out[r, ..] = sum over ranks k of weights[r, k] * down[e] . (gelu(gate[e] . x[r]) * (up[e] . x[r])), e = experts[r, k]
//
// Spec    core/src/ops/moe_ffn.rs
// Launch  decode class:
//           moe_ffn__gate_up  x: MOE_OUTPUTS values of `hidden` a workgroup; y: (row, rank) pairs; each part of each weight
//           moe_ffn__down     x: MOE_OUTPUTS columns a workgroup; y: rows, or pairs where `down` has several parts
//         prefill class: moe_ffn__sort, then shaders/moe_tiles.wgsl
//         both: moe_ffn__combine  x: workgroups of 4 * ROW_THREADS columns; y: rows; where pairs were kept apart
// Differs from the spec in f32 arithmetic and in the order of the sums (32 lanes of chunks, then a tree).
// Experts of other parts are left to their dispatches.

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, cols], or hidden [rows, top_k, ffn]
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
// Whether `moe_ffn__down` keeps the pairs of a row apart.
override APART: bool = false;

var<workgroup> partial: array<vec2<f32>, 256>;

// The sum over the 32 lanes of this output, in its lane 0.
fn lanes_sum(value: vec2<f32>, index: u32) -> vec2<f32> {
  partial[index] = value;
  for (var half = 16u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (index & 31u) < half { partial[index] += partial[index + half]; }
  }
  return partial[index];
}

// The first word of row `row` of an expert, which is in this part.
fn row_of(expert: u32, row: u32) -> u32 {
  return ((expert - params.first) * params.expert_rows + row) * params.stride;
}

fn in_part(expert: u32) -> bool {
  return expert >= params.first && expert - params.first < params.part_experts;
}

@compute @workgroup_size(256)
fn moe_ffn__gate_up(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let expert = experts[group.y];
  if !in_part(expert) { return; }
  let f = group.x * MOE_OUTPUTS + (index >> 5u);
  let gate = row_of(expert, min(f, params.outputs - 1u));
  let up = gate + params.outputs * params.stride;
  let x_row = group.y / params.top_k * params.cols;
  var sums = vec2(0.0);
  for (var c = index & 31u; c < params.cols; c += 32u) {
    let value = x[x_row + c];
    sums.x = fma(weight_at(gate, gate + params.tails, c), value, sums.x);
    if FORM == BOTH { sums.y = fma(weight_at(up, up + params.tails, c), value, sums.y); }
  }
  sums = lanes_sum(sums, index);
  if (index & 31u) == 0u && f < params.outputs {
    let at = group.y * params.outputs + f;
    switch FORM {
      case GATE: { out[at] = sums.x; }
      case UP: { out[at] = gelu_tanh(out[at]) * sums.x; }
      default: { out[at] = gelu_tanh(sums.x) * sums.y; }
    }
  }
}

@compute @workgroup_size(256)
fn moe_ffn__down(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  if APART && !in_part(experts[group.y]) { return; }
  let output = group.x * MOE_OUTPUTS + (index >> 5u);
  let ranks = select(params.top_k, 1u, APART);
  var sum = 0.0;
  for (var rank = 0u; rank < ranks; rank++) {
    let pair = group.y * ranks + rank;
    let row = row_of(experts[pair], min(output, params.outputs - 1u));
    let weight = select(weights[pair], 1.0, APART);
    for (var c = index & 31u; c < params.cols; c += 32u) {
      sum = fma(weight_at(row, row + params.tails, c) * weight, x[pair * params.cols + c], sum);
    }
  }
  sum = lanes_sum(vec2(sum, 0.0), index).x;
  if (index & 31u) == 0u && output < params.outputs { out[group.y * params.outputs + output] = sum; }
}

@compute @workgroup_size(ROW_THREADS)
fn moe_ffn__combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.outputs);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    var sum = 0.0;
    for (var rank = 0u; rank < params.top_k; rank++) {
      let pair = group.y * params.top_k + rank;
      sum = fma(pair_weights[pair], x[pair * params.outputs + c], sum);
    }
    summed[group.y * params.outputs + c] = sum;
  }
}

@group(0) @binding(1) var<storage, read> pair_weights: array<f32>;     // [rows, top_k]
@group(0) @binding(2) var<storage, read_write> summed: array<f32>;     // [rows, cols]

@group(0) @binding(0) var<storage, read> unsorted: array<u32>;         // [rows, top_k]
@group(0) @binding(1) var<storage, read_write> lists: array<u32>;      // pairs by expert, then tiles

var<workgroup> scan: array<vec2<u32>, ROW_THREADS>;

// One workgroup for each expert: its pairs by row and rank, behind those of the experts before it, and its tiles.
//
// With `before` pairs of lower experts, tiles start at number before / MOE_TILE_PAIRS + expert: that is never below the
// end of the tiles of the expert before, so no expert needs to know how many tiles others have. Numbers in between are
// tiles of no pairs.
@compute @workgroup_size(ROW_THREADS)
fn moe_ffn__sort(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let expert = group.x;
  let pairs = select(step.rows, step.picked, params.picked == 1u) * params.top_k;
  let each = (pairs + ROW_THREADS - 1u) / ROW_THREADS;
  let start = min(lane * each, pairs);
  let end = min(start + each, pairs);
  // Pairs of lower experts, pairs of this one.
  var counts = vec2(0u);
  for (var pair = start; pair < end; pair++) {
    let chosen = unsorted[pair];
    counts += select(vec2(0u), vec2(1u), vec2(chosen < expert, chosen == expert));
  }
  scan[lane] = counts;
  var sum = counts;
  for (var reach = 1u; reach < ROW_THREADS; reach *= 2u) {
    workgroupBarrier();
    if lane >= reach { sum += scan[lane - reach]; }
    workgroupBarrier();
    scan[lane] = sum;
  }
  workgroupBarrier();
  let total = scan[ROW_THREADS - 1u];
  var at = total.x + sum.y - counts.y;
  for (var pair = start; pair < end; pair++) {
    if unsorted[pair] == expert {
      lists[at] = pair;
      at++;
    }
  }
  let tile = total.x / MOE_TILE_PAIRS + expert;
  let next = (total.x + total.y) / MOE_TILE_PAIRS + expert + 1u;
  for (var i = tile + lane; i < next; i += ROW_THREADS) {
    let done = min((i - tile) * MOE_TILE_PAIRS, total.y);
    let word = params.pairs + 3u * i;
    lists[word] = expert;
    lists[word + 1u] = total.x + done;
    lists[word + 2u] = min(total.y - done, MOE_TILE_PAIRS);
  }
}
