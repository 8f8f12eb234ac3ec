// moe_ffn, prefill class: products of up to MOE_TILE_PAIRS pairs of one expert with MOE_TILE_ROWS rows of its matrix.
//
// Spec    core/src/ops/moe_ffn.rs
// Launch  moe_ffn__tile  x: MOE_TILE_ROWS rows of the matrix (half as many outputs, gate and up, where FORM is BOTH);
//         y: tiles of the worst case, of which those without pairs end at once; each part of each weight
// Weights are decoded once for all pairs of a tile. An element's sum goes over the columns in rising order, whatever
// tile its pair is in and wherever.

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, cols], or hidden [rows, top_k, ffn]
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
const LEFT = MOE_TILE_PAIRS / 4u + 1u;
const RIGHT = MOE_TILE_ROWS / 4u;

var<workgroup> left: array<vec4<f32>, DEPTH * LEFT>;     // [DEPTH, pairs]
var<workgroup> right: array<vec4<f32>, DEPTH * RIGHT>;   // [DEPTH, rows]
var<workgroup> members: array<u32, MOE_TILE_PAIRS>;

// Sums of this lane: 4 pairs, each with 4 rows of the lower half and 4 of the upper.
var<private> low: array<vec4<f32>, 4>;
var<private> high: array<vec4<f32>, 4>;

fn column(k: u32, lane_pairs: u32, lane_rows: u32) {
  let a = left[k * LEFT + lane_pairs];
  let b = right[k * RIGHT + lane_rows];
  let c = right[k * RIGHT + RIGHT / 2u + lane_rows];
  low[0] = fma(vec4(a.x), b, low[0]);
  low[1] = fma(vec4(a.y), b, low[1]);
  low[2] = fma(vec4(a.z), b, low[2]);
  low[3] = fma(vec4(a.w), b, low[3]);
  high[0] = fma(vec4(a.x), c, high[0]);
  high[1] = fma(vec4(a.y), c, high[1]);
  high[2] = fma(vec4(a.z), c, high[2]);
  high[3] = fma(vec4(a.w), c, high[3]);
}

fn store(pair: u32, output: u32, values: vec4<f32>) {
  for (var i = 0u; i < 4u && output + i < params.outputs; i++) {
    let at = pair * params.outputs + output + i;
    if FORM == UP { out[at] = gelu_tanh(out[at]) * values[i]; } else { out[at] = values[i]; }
  }
}

@compute @workgroup_size(MOE_TILE_ROWS)
fn moe_ffn__tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let pairs = select(step.rows, step.picked, params.picked == 1u) * params.top_k;
  if group.y >= pairs / MOE_TILE_PAIRS + params.experts { return; }
  let tile = params.pairs + 3u * group.y;
  let expert = lists[tile];
  let count = lists[tile + 2u];
  if count == 0u || expert < params.first || expert - params.first >= params.part_experts { return; }
  if lane < MOE_TILE_PAIRS { members[lane] = lists[lists[tile + 1u] + min(lane, count - 1u)]; }

  // The row that this lane decodes.
  let half = MOE_TILE_ROWS / 2u;
  var own = group.x * MOE_TILE_ROWS + lane;
  if FORM == BOTH { own = group.x * half + (lane & (half - 1u)); }
  own = min(own, params.outputs - 1u);
  if FORM == BOTH && lane >= half { own += params.outputs; }
  let row = ((expert - params.first) * params.expert_rows + own) * params.stride;
  let lane_rows = lane & 15u;
  let lane_pairs = lane >> 4u;
  for (var i = 0u; i < 4u; i++) {
    low[i] = vec4(0.0);
    high[i] = vec4(0.0);
  }
  workgroupBarrier();
  for (var first = 0u; first < params.cols; first += DEPTH) {
    for (var k = 0u; k < DEPTH; k++) {
      var value = 0.0;
      if first + k < params.cols { value = weight_at(row, row + params.tails, first + k); }
      right[k * RIGHT + (lane >> 2u)][lane & 3u] = value;
    }
    // Lanes of 16 columns by 8 pairs.
    let c = first + (lane & 15u);
    for (var i = lane >> 4u; i < MOE_TILE_PAIRS; i += MOE_TILE_ROWS / 16u) {
      var value = 0.0;
      if c < params.cols { value = x[members[i] / params.divisor * params.cols + c]; }
      left[(lane & 15u) * LEFT + (i >> 2u)][i & 3u] = value;
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k += 4u) {
      column(k, lane_pairs, lane_rows);
      column(k + 1u, lane_pairs, lane_rows);
      column(k + 2u, lane_pairs, lane_rows);
      column(k + 3u, lane_pairs, lane_rows);
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 4u; i++) {
    let slot = 4u * lane_pairs + i;
    if slot >= count { break; }
    let pair = members[slot];
    if FORM == BOTH {
      let b = low[i];
      let gates = vec4(gelu_tanh(b.x), gelu_tanh(b.y), gelu_tanh(b.z), gelu_tanh(b.w));
      store(pair, group.x * half + 4u * lane_rows, gates * high[i]);
    } else {
      store(pair, group.x * MOE_TILE_ROWS + 4u * lane_rows, low[i]);
      store(pair, group.x * MOE_TILE_ROWS + half + 4u * lane_rows, high[i]);
    }
  }
}
