// route: the top_k experts of a row and their shares, from proj . (x / rms(x) * scale / sqrt(cols))
//
// Spec    core/src/ops/route.rs
// Launch  one dispatch for each part of the matrix:
//           route__logits (decode class): x: experts; y: rows
//           route__tile (prefill class): x: four experts each; y: four rows each
//         route__choose: one workgroup for each row
// Differs from the spec in f32 arithmetic, in the order of the sums (strided by lane, then a tree), and in dividing the
// sum of products by the root mean square instead of each factor, so that one pass over the row gives both sums.

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;                // [part_rows, stride] words
@group(0) @binding(1) var<storage, read> x: array<f32>;                      // [rows, cols]
@group(0) @binding(2) var<storage, read> scale: array<f32>;                  // [cols]
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;           // [rows, experts]
@group(1) @binding(0) var<uniform> params: RouteParams;
@group(1) @binding(1) var<uniform> step: StepState;

var<workgroup> route_partial: array<vec4<f32>, ROW_THREADS>;

// The sums over all lanes, in lane 0.
fn lanes_sums(value: vec4<f32>, lane: u32) -> vec4<f32> {
  workgroupBarrier();
  route_partial[lane] = value;
  for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { route_partial[lane] += route_partial[lane + half]; }
  }
  return route_partial[lane];
}

// Element `c` of a row of x, and 0 past its end.
fn input(row: u32, c: u32) -> f32 {
  return select(0.0, x[row * params.cols + min(c, params.cols - 1u)], c < params.cols);
}

fn scaled_weight(start: u32, c: u32) -> f32 {
  let inside = min(c, params.cols - 1u);
  return scale[inside] * weight_at(start, start + params.tails, inside);
}

fn logit_of(product: f32, squares: f32) -> f32 {
  return product * (inverseSqrt(squares / f32(params.cols) + params.eps) * params.factor);
}

@compute @workgroup_size(ROW_THREADS)
fn route__logits(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = group.x * params.stride;
  // Squares, products.
  var sums = vec4(0.0);
  // Four columns at once, so that their loads are in flight together.
  for (var first = lane; first < params.cols; first += 4u * ROW_THREADS) {
    let c = vec4(first) + ROW_THREADS * vec4(0u, 1u, 2u, 3u);
    let v = vec4(input(group.y, c.x), input(group.y, c.y), input(group.y, c.z), input(group.y, c.w));
    let p = vec4(scaled_weight(start, c.x), scaled_weight(start, c.y), scaled_weight(start, c.z), scaled_weight(start, c.w));
    sums.x = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, sums.x))));
    sums.y = fma(v.w, p.w, fma(v.z, p.z, fma(v.y, p.y, fma(v.x, p.x, sums.y))));
  }
  sums = lanes_sums(sums, lane);
  if lane == 0u { logits[group.y * params.experts + params.first + group.x] = logit_of(sums.y, sums.x); }
}

// Stores the logits of one row and four experts.
fn store(row: u32, group: u32, products: vec4<f32>, squares: f32) {
  for (var i = 0u; i < 4u && 4u * group + i < params.part_experts; i++) {
    logits[row * params.experts + params.first + 4u * group + i] = logit_of(products[i], squares);
  }
}

@compute @workgroup_size(ROW_THREADS)
fn route__tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let rows = select(step.rows, step.picked, params.picked == 1u);
  let row = min(4u * group.y + vec4(0u, 1u, 2u, 3u), vec4(rows - 1u));
  let start = min(4u * group.x + vec4(0u, 1u, 2u, 3u), vec4(params.part_experts - 1u)) * params.stride;
  var squares = vec4(0.0);
  var a = vec4(0.0);
  var b = vec4(0.0);
  var c = vec4(0.0);
  var d = vec4(0.0);
  for (var i = lane; i < params.cols; i += ROW_THREADS) {
    let v = vec4(input(row.x, i), input(row.y, i), input(row.z, i), input(row.w, i));
    let p = vec4(scaled_weight(start.x, i), scaled_weight(start.y, i), scaled_weight(start.z, i), scaled_weight(start.w, i));
    squares = fma(v, v, squares);
    a = fma(vec4(v.x), p, a);
    b = fma(vec4(v.y), p, b);
    c = fma(vec4(v.z), p, c);
    d = fma(vec4(v.w), p, d);
  }
  squares = lanes_sums(squares, lane);
  a = lanes_sums(a, lane);
  b = lanes_sums(b, lane);
  c = lanes_sums(c, lane);
  d = lanes_sums(d, lane);
  if lane != 0u { return; }
  // Rows past the last are that row once more.
  store(row.x, group.x, a, squares.x);
  if 4u * group.y + 1u < rows { store(row.y, group.x, b, squares.y); }
  if 4u * group.y + 2u < rows { store(row.z, group.x, c, squares.z); }
  if 4u * group.y + 3u < rows { store(row.w, group.x, d, squares.w); }
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
