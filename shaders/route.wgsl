// route: the top_k experts of a row and their shares, from proj . (x / rms(x) * scale / sqrt(cols))
//
// Spec    core/src/ops/route.rs
// Launch  route__logits: x: an expert each; y: rows; one dispatch for each part of the matrix
//         route__choose: one workgroup for each row
// Differs from the spec in f32 arithmetic, in the order of the sums (strided by lane, then a tree), and in dividing the
// sum of products by the root mean square instead of each factor, so that one pass over the row gives both sums.

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;                // [part_rows, stride] words
@group(0) @binding(1) var<storage, read> x: array<f32>;                      // [rows, cols]
@group(0) @binding(2) var<storage, read> scale: array<f32>;                  // [cols]
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;           // [rows, experts]
@group(1) @binding(0) var<uniform> params: RouteParams;

var<workgroup> pair_partial: array<vec2<f32>, ROW_THREADS>;

@compute @workgroup_size(ROW_THREADS)
fn route__logits(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * params.cols;
  let weights = group.x * params.stride;
  // Squares, products.
  var sums = vec2(0.0);
  for (var c = lane; c < params.cols; c += ROW_THREADS) {
    let value = x[row + c];
    sums = fma(vec2(value), vec2(value, scale[c] * weight_at(weights, weights + params.tails, c)), sums);
  }
  pair_partial[lane] = sums;
  for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { pair_partial[lane] += pair_partial[lane + half]; }
  }
  if lane == 0u {
    let both = pair_partial[0];
    let norm = inverseSqrt(both.x / f32(params.cols) + params.eps) * params.factor;
    logits[group.y * params.experts + params.first + group.x] = both.y * norm;
  }
}

@group(0) @binding(0) var<storage, read> all_logits: array<f32>;             // [rows, experts]
@group(0) @binding(1) var<storage, read> expert_scale: array<f32>;           // [experts]
@group(0) @binding(2) var<storage, read_write> chosen: array<u32>;           // [rows, top_k]
@group(0) @binding(3) var<storage, read_write> shares: array<f32>;           // [rows, top_k]

var<workgroup> keys: array<u32, ROUTE_EXPERTS>;
var<workgroup> order: array<u32, ROUTE_EXPERTS>;
var<workgroup> chances: array<f32, ROUTE_EXPERTS>;

// Larger for larger values, and total: NaN has a place too. Zeros are equal.
fn key_of(value: f32) -> u32 {
  let bits = bitcast<u32>(select(value, 0.0, value == 0.0));
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn value_of(key: u32) -> f32 {
  return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

@compute @workgroup_size(ROW_THREADS)
fn route__choose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * params.experts;
  for (var e = lane; e < params.experts; e += ROW_THREADS) {
    keys[e] = key_of(all_logits[row + e]);
  }
  workgroupBarrier();
  // An expert's rank is how many come before it.
  for (var e = lane; e < params.experts; e += ROW_THREADS) {
    let key = keys[e];
    var rank = 0u;
    var i = 0u;
    for (; i + 4u <= params.experts; i += 4u) {
      let before = vec4(keys[i], keys[i + 1u], keys[i + 2u], keys[i + 3u]);
      let lower = vec4(i, i + 1u, i + 2u, i + 3u) < vec4(e);
      let ahead = (before > vec4(key)) | ((before == vec4(key)) & lower);
      let ones = select(vec4(0u), vec4(1u), ahead);
      rank += ones.x + ones.y + ones.z + ones.w;
    }
    for (; i < params.experts; i++) {
      rank += select(0u, 1u, keys[i] > key || (keys[i] == key && i < e));
    }
    order[rank] = e;
  }
  workgroupBarrier();
  let top = value_of(keys[order[0]]);
  var total = 0.0;
  for (var rank = lane; rank < params.experts; rank += ROW_THREADS) {
    let chance = exp(value_of(keys[order[rank]]) - top);
    chances[rank] = chance;
    total += chance;
  }
  total = workgroup_sum(total, lane);
  var kept = 0.0;
  for (var rank = 0u; rank < params.top_k; rank++) { kept += chances[rank] / total; }
  for (var rank = lane; rank < params.top_k; rank += ROW_THREADS) {
    let at = group.x * params.top_k + rank;
    chosen[at] = order[rank];
    shares[at] = chances[rank] / total / max(kept, 6.1035e-5) * expert_scale[order[rank]];
  }
}
