// moe_ffn, prefill class: products of up to MOE_TILE_PAIRS pairs of one expert with MOE_TILE_ROWS rows of its matrix.
//
// Spec    core/src/ops/moe_ffn.rs
// Launch  moe_ffn__tile, and moe_ffn__tile_any for rows that are not of whole chunks
//         x: MOE_TILE_ROWS rows of the matrix (half as many outputs, gate and up, where FORM is BOTH);
//         y: tiles of the worst case, of which those without pairs end at once; each part of each weight
// Weights are decoded once for all pairs of a tile. An element's sum goes over the columns in one order, that of the
// quads of chunks, whatever tile its pair is in and wherever.

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, cols], or hidden [rows, top_k, ffn]
@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;    // the same
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;     // [part's experts, expert_rows, stride] words
@group(0) @binding(2) var<storage, read> lists: array<u32>;       // pairs by expert, then tiles
@group(0) @binding(3) var<storage, read_write> out: array<f32>;   // hidden [rows, top_k, ffn], or [rows, top_k, cols]
@group(1) @binding(0) var<uniform> params: MoeFfnParams;
@group(1) @binding(1) var<uniform> step: StepState;

// What a dispatch computes: gelu(gate) * up, a plain product, or the second factor.
const BOTH: u32 = 0u;
const PLAIN: u32 = 1u;
const UP: u32 = 2u;
override FORM: u32 = BOTH;

// Columns at once. A row of `left` is padded by four floats, so that lanes that write a column meet different banks.
const DEPTH = 16u;
const HALF = MOE_TILE_ROWS / 2u;
const LEFT = MOE_TILE_PAIRS / 4u + 1u;

// Arrays of arrays: most of an index is constant, as in common/linear_tiles.wgsl.
var<workgroup> left: array<array<array<vec4<f32>, LEFT>, 8>, DEPTH / 8u>;              // [DEPTH, pairs]
var<workgroup> right: array<array<array<array<vec4<f32>, 16>, 2>, 8>, DEPTH / 8u>;     // [DEPTH, 2 halves of the rows]
var<workgroup> members: array<u32, MOE_TILE_PAIRS>;

// Sums of this lane: 4 pairs, each with 4 rows of the lower half of the rows and 4 of the upper.
var<private> low0: vec4<f32>;
var<private> low1: vec4<f32>;
var<private> low2: vec4<f32>;
var<private> low3: vec4<f32>;
var<private> high0: vec4<f32>;
var<private> high1: vec4<f32>;
var<private> high2: vec4<f32>;
var<private> high3: vec4<f32>;

// Which four pairs and which rows a lane has: of 32 neighbours four by eight, as in common/linear_tiles.wgsl.
fn four_pairs(lane: u32) -> u32 { return ((lane >> 1u) & 1u) | ((lane >> 3u) & 6u); }
fn four_rows(lane: u32) -> u32 { return (lane & 1u) | ((lane >> 1u) & 6u) | ((lane >> 3u) & 8u); }

fn column(eight: u32, k: u32, lane: u32) {
  let a = left[eight][k][four_pairs(lane)];
  let b = right[eight][k][0][four_rows(lane)];
  let c = right[eight][k][1][four_rows(lane)];
  low0 = fma(vec4(a.x), b, low0);
  low1 = fma(vec4(a.y), b, low1);
  low2 = fma(vec4(a.z), b, low2);
  low3 = fma(vec4(a.w), b, low3);
  high0 = fma(vec4(a.x), c, high0);
  high1 = fma(vec4(a.y), c, high1);
  high2 = fma(vec4(a.z), c, high2);
  high3 = fma(vec4(a.w), c, high3);
}

// Adds the DEPTH columns that are in `left` and `right`.
fn columns(lane: u32) {
  workgroupBarrier();
  for (var eight = 0u; eight < DEPTH / 8u; eight++) {
    column(eight, 0u, lane);
    column(eight, 1u, lane);
    column(eight, 2u, lane);
    column(eight, 3u, lane);
    column(eight, 4u, lane);
    column(eight, 5u, lane);
    column(eight, 6u, lane);
    column(eight, 7u, lane);
  }
  workgroupBarrier();
}

fn put_left(pair: u32, k: u32, value: f32) { left[k / 8u][k % 8u][pair >> 2u][pair & 3u] = value; }

fn put_right(row: u32, k: u32, value: f32) { right[k / 8u][k % 8u][row / 64u][(row >> 2u) & 15u][row & 3u] = value; }

fn put_right_quad(row: u32, k: u32, numbers: vec4<f32>, scale: f32, shift: f32) {
  var values = numbers;
  if WEIGHT_ZERO != 0.0 { values -= vec4(WEIGHT_ZERO); }
  values *= scale;
  if WEIGHT_SHIFTS { values += vec4(shift); }
  put_right(row, k, values.x);
  put_right(row, k + 1u, values.y);
  put_right(row, k + 2u, values.z);
  put_right(row, k + 3u, values.w);
}

fn store(pair: u32, output: u32, values: vec4<f32>) {
  for (var i = 0u; i < 4u && output + i < params.outputs; i++) {
    let at = pair * params.outputs + output + i;
    if FORM == UP { out[at] = gelu_tanh(out[at]) * values[i]; } else { out[at] = values[i]; }
  }
}

// What a workgroup works on.
struct Tile {
  expert: u32,
  count: u32,
  // The word where the row starts that this lane decodes.
  row: u32,
}

// The tile of a workgroup; its pairs become `members`. A tile of no pairs is one of another part, too.
fn begin(group: vec3<u32>, lane: u32) -> Tile {
  let pairs = select(step.rows, step.picked, params.picked == 1u) * params.top_k;
  if group.y >= pairs / MOE_TILE_PAIRS + params.experts { return Tile(); }
  let at = params.pairs + 3u * group.y;
  let expert = lists[at];
  let count = lists[at + 2u];
  if expert < params.first || expert - params.first >= params.part_experts { return Tile(); }
  if lane < MOE_TILE_PAIRS && count > 0u { members[lane] = lists[lists[at + 1u] + min(lane, count - 1u)]; }
  var row = group.x * MOE_TILE_ROWS + lane;
  if FORM == BOTH { row = group.x * HALF + (lane & (HALF - 1u)); }
  row = min(row, params.outputs - 1u);
  if FORM == BOTH && lane >= HALF { row += params.outputs; }
  low0 = vec4(0.0);
  low1 = vec4(0.0);
  low2 = vec4(0.0);
  low3 = vec4(0.0);
  high0 = vec4(0.0);
  high1 = vec4(0.0);
  high2 = vec4(0.0);
  high3 = vec4(0.0);
  return Tile(expert, count, ((expert - params.first) * params.expert_rows + row) * params.stride);
}

fn gated(gate: vec4<f32>, up: vec4<f32>) -> vec4<f32> {
  return vec4(gelu_tanh(gate.x), gelu_tanh(gate.y), gelu_tanh(gate.z), gelu_tanh(gate.w)) * up;
}

fn finish_pair(slot: u32, count: u32, group: u32, lane: u32, low: vec4<f32>, high: vec4<f32>) {
  if slot >= count { return; }
  let output = 4u * four_rows(lane);
  if FORM == BOTH {
    store(members[slot], group * HALF + output, gated(low, high));
  } else {
    store(members[slot], group * MOE_TILE_ROWS + output, low);
    store(members[slot], group * MOE_TILE_ROWS + HALF + output, high);
  }
}

fn finish(count: u32, group: u32, lane: u32) {
  let slot = 4u * four_pairs(lane);
  finish_pair(slot, count, group, lane, low0, high0);
  finish_pair(slot + 1u, count, group, lane, low1, high1);
  finish_pair(slot + 2u, count, group, lane, low2, high2);
  finish_pair(slot + 3u, count, group, lane, low3, high3);
}

// Rows of whole chunks.
@compute @workgroup_size(MOE_TILE_ROWS)
fn moe_ffn__tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let tile = begin(group, lane);
  if tile.count == 0u { return; }
  workgroupBarrier();
  let chunks = params.cols / 32u;
  // Four lanes read the four quads of a half of a pair.
  let pair = lane >> 2u;
  let input = members[pair] / params.divisor * (params.cols / 4u);
  for (var chunk = 0u; chunk < chunks; chunk++) {
    let packed = load_chunk(tile.row, tile.row + params.tails, chunk, chunks);
    let first = x4[input + chunk_quad(chunk, chunks, lane & 3u)];
    let second = x4[input + chunk_quad(chunk, chunks, 4u + (lane & 3u))];
    let scales = chunk_scales(packed);
    put_half(lane, pair, chunk_half(packed, 0u), scales.scale.x, scales.shift.x, first);
    columns(lane);
    put_half(lane, pair, chunk_half(packed, 1u), scales.scale.y, scales.shift.y, second);
    columns(lane);
  }
  finish(tile.count, group.x, lane);
}

fn put_half(lane: u32, pair: u32, numbers: Half, scale: f32, shift: f32, inputs: vec4<f32>) {
  put_right_quad(lane, 0u, numbers.a, scale, shift);
  put_right_quad(lane, 4u, numbers.b, scale, shift);
  put_right_quad(lane, 8u, numbers.c, scale, shift);
  put_right_quad(lane, 12u, numbers.d, scale, shift);
  let k = 4u * (lane & 3u);
  put_left(pair, k, inputs.x);
  put_left(pair, k + 1u, inputs.y);
  put_left(pair, k + 2u, inputs.z);
  put_left(pair, k + 3u, inputs.w);
}

// Rows of any length.
@compute @workgroup_size(MOE_TILE_ROWS)
fn moe_ffn__tile_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let tile = begin(group, lane);
  if tile.count == 0u { return; }
  workgroupBarrier();
  for (var first = 0u; first < params.cols; first += DEPTH) {
    for (var k = 0u; k < DEPTH; k++) {
      var value = 0.0;
      if first + k < params.cols { value = weight_at(tile.row, tile.row + params.tails, first + k); }
      put_right(lane, k, value);
    }
    let c = first + (lane & 15u);
    for (var pair = lane >> 4u; pair < MOE_TILE_PAIRS; pair += MOE_TILE_ROWS / 16u) {
      var value = 0.0;
      if c < params.cols { value = x[members[pair] / params.divisor * params.cols + c]; }
      put_left(pair, lane & 15u, value);
    }
    columns(lane);
  }
  finish(tile.count, group.x, lane);
}
