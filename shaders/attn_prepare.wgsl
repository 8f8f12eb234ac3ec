// attn_prepare: norms and turns the heads of a row; keys and values go to the cache.
//   queries  out[r, h] = rope(n(q[r, h]) * q_norm)                      n(x) = x / sqrt(mean(x^2) + eps)
//   cache    key = rope(n(k[r, h]) * k_norm), value = n(v[r, h]), or v[r, h] itself where values are plain
//
// Spec    core/src/ops/attn_prepare.rs, core/src/kv_type.rs
// Launch  queries: x: query heads, y: rows; cache: x: key heads, then value heads, y: rows; ROW_THREADS a workgroup
//         both: x: query heads, key heads, value heads, y: rows; it needs ten storage buffers
// Where values were projected to a matrix of their own, `values` is that; else it is `qkv`.
// Differs from the spec in f32 arithmetic; stored bytes follow from the f32 values exactly.

const HEAD_MAX: u32 = 512u;

override K_KIND: u32 = 0u;
override V_KIND: u32 = 0u;

@group(0) @binding(0) var<storage, read> qkv: array<f32>;           // [rows, width]
@group(0) @binding(1) var<storage, read> norm_weight: array<f32>;   // [dim]
@group(0) @binding(2) var<storage, read> frequency: array<f32>;     // [dim / 2]
@group(0) @binding(3) var<storage, read> rows: array<RowInfo>;      // [rows]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;     // [rows, heads * dim]
@group(0) @binding(4) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<storage, read_write> k: array<u32>;       // [pages, kv_heads, PAGE, k_stride]
@group(0) @binding(6) var<storage, read_write> v: array<u32>;       // [pages, kv_heads, PAGE, v_stride]
@group(0) @binding(7) var<storage, read> values: array<f32>;        // [rows, ..]
@group(0) @binding(8) var<storage, read_write> queries: array<f32>; // [rows, heads * dim]
@group(0) @binding(9) var<storage, read> key_weight: array<f32>;    // [dim]
@group(1) @binding(0) var<uniform> params: PrepareParams;

var<workgroup> head_values: array<f32, HEAD_MAX>;

// An invocation has a pair of a head: elements `lane` and `lane + dim / 2`. Those past the last pair have nothing.
fn has_pair(lane: u32) -> bool { return lane < params.dim / 2u; }

// Brings a head into memory for everyone.
fn put(pair: vec2<f32>, lane: u32) {
  if has_pair(lane) {
    head_values[lane] = pair.x;
    head_values[lane + params.dim / 2u] = pair.y;
  }
  workgroupBarrier();
}

fn load_head(start: u32, lane: u32) -> vec2<f32> {
  if !has_pair(lane) { return vec2(0.0); }
  return vec2(qkv[start + lane], qkv[start + params.dim / 2u + lane]);
}

fn load_value(start: u32, lane: u32) -> vec2<f32> {
  if !has_pair(lane) { return vec2(0.0); }
  return vec2(values[start + lane], values[start + params.dim / 2u + lane]);
}

// What norms a head.
fn inverse_rms(pair: vec2<f32>, lane: u32) -> f32 {
  return inverseSqrt(workgroup_sum(fma(pair.y, pair.y, pair.x * pair.x), lane) / f32(params.dim) + params.eps);
}

fn head_weight(lane: u32) -> vec2<f32> {
  if !has_pair(lane) { return vec2(0.0); }
  return vec2(norm_weight[lane], norm_weight[lane + params.dim / 2u]);
}

fn weight_of_key(lane: u32) -> vec2<f32> {
  if !has_pair(lane) { return vec2(0.0); }
  return vec2(key_weight[lane], key_weight[lane + params.dim / 2u]);
}

// Cosine and sine of an angle of up to 2^18: less a multiple of pi / 2, which is taken in parts of few bits, so that
// all products and all differences but the last are exact. WGSL's fma need not be.
fn turn(angle: f32) -> vec2<f32> {
  let n = u32(round(angle * 0.63661977));
  let high = f32(n & ~511u);
  let low = f32(n & 511u);
  var r = (angle - high * 1.57073974609375) - low * 1.57073974609375;
  r = (r - high * 0.000056579709053039551) - low * 0.000056579709053039551;
  r -= f32(n) * 9.92093629e-10;
  let z = r * r;
  let s = fma(r * z, fma(z, fma(z, -1.9515296e-4, 8.332161e-3), -0.16666655), r);
  let c = fma(z * z, fma(z, fma(z, 2.4433157e-5, -1.3887316e-3), 0.041666646), fma(z, -0.5, 1.0));
  let quadrant = n & 3u;
  let swapped = select(vec2(c, s), vec2(s, c), (quadrant & 1u) == 1u);
  return select(swapped, -swapped, vec2(quadrant == 1u || quadrant == 2u, quadrant >= 2u));
}

// Cosine and sine for the pair of an invocation of row `r`.
fn turn_of(r: u32, lane: u32) -> vec2<f32> {
  return turn(f32(rows[r].position) * frequency[min(lane, params.dim / 2u - 1u)]);
}

fn rope(pair: vec2<f32>, cs: vec2<f32>) -> vec2<f32> {
  return vec2(fma(pair.x, cs.x, -(pair.y * cs.y)), fma(pair.y, cs.x, pair.x * cs.y));
}

// First element of head `head` of row `r`, among heads from column `first` on.
fn head_start(r: u32, first: u32, head: u32) -> u32 { return r * params.width + first + head * params.dim; }

// First element of the raw values of a head: in a matrix of their own, if they do not follow the keys.
fn value_start(r: u32, head: u32) -> u32 {
  let width = select(params.width, params.kv_heads * params.dim, params.value_start == 0u);
  return r * width + params.value_start + head * params.dim;
}

// In every entry point all loads are under way before the first sum, which has barriers.

@compute @workgroup_size(ROW_THREADS)
fn attn_prepare__queries(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let raw = load_head(head_start(group.y, 0u, group.x), lane);
  let weight = head_weight(lane);
  let cs = turn_of(group.y, lane);
  let query = rope(raw * inverse_rms(raw, lane) * weight, cs);
  let to = (group.y * params.heads + group.x) * params.dim;
  if !has_pair(lane) { return; }
  out[to + lane] = query.x;
  out[to + params.dim / 2u + lane] = query.y;
}

// The row of a pool where a head goes.
fn row_of(r: u32, head: u32) -> u32 {
  let info = rows[r];
  return first_row(page_of(info.slot, info.position, params.local), head, params.kv_heads) + info.position % PAGE;
}

fn store_value(row: u32, lane: u32) {
  let dim = params.dim;
  scale_head(V_KIND, dim, lane);
  let to = row * params.v_stride;
  for (var w = lane; w < code_words(V_KIND, dim); w += ROW_THREADS) { v[to + w] = code_word(V_KIND, w); }
  if V_KIND == KV_TQ3_0 && lane < dim / 32u { v[to + high_plane(dim) + lane] = high_word(lane); }
  if V_KIND >= KV_Q8_0 && lane < (dim / 32u + 1u) / 2u {
    v[to + scale_plane(V_KIND, dim) + lane] = scale_word(V_KIND, dim, lane);
  }
}

fn store_key(row: u32, lane: u32) {
  let dim = params.dim;
  scale_head(K_KIND, dim, lane);
  let to = row * params.k_stride;
  for (var w = lane; w < code_words(K_KIND, dim); w += ROW_THREADS) { k[to + w] = code_word(K_KIND, w); }
  if K_KIND == KV_TQ3_0 && lane < dim / 32u { k[to + high_plane(dim) + lane] = high_word(lane); }
  if K_KIND >= KV_Q8_0 && lane < (dim / 32u + 1u) / 2u {
    k[to + scale_plane(K_KIND, dim) + lane] = scale_word(K_KIND, dim, lane);
  }
}

// What is stored of a raw value.
fn normed_value(raw: vec2<f32>, lane: u32) -> vec2<f32> {
  if params.plain != 0u { return raw; }
  return raw * inverse_rms(raw, lane);
}

fn value_to_cache(r: u32, head: u32, lane: u32) {
  let raw = load_value(value_start(r, head), lane);
  let row = row_of(r, head);
  put(normed_value(raw, lane), lane);
  store_value(row, lane);
}

// Key head `head` of a row, or a value head behind those.
fn to_cache(r: u32, head: u32, lane: u32) {
  if head >= params.kv_heads {
    value_to_cache(r, head - params.kv_heads, lane);
    return;
  }
  let raw = load_head(head_start(r, params.heads * params.dim, head), lane);
  let weight = head_weight(lane);
  let cs = turn_of(r, lane);
  let row = row_of(r, head);
  put(rope(raw * inverse_rms(raw, lane) * weight, cs), lane);
  store_key(row, lane);
}

@compute @workgroup_size(ROW_THREADS)
fn attn_prepare__cache(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  to_cache(group.y, group.x, lane_of(at));
}

@compute @workgroup_size(ROW_THREADS)
fn attn_prepare__both(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  if group.x >= params.heads + params.kv_heads {
    value_to_cache(group.y, group.x - params.heads - params.kv_heads, lane);
    return;
  }
  let raw = load_head(head_start(group.y, 0u, group.x), lane);
  let cs = turn_of(group.y, lane);
  if group.x >= params.heads {
    let weight = weight_of_key(lane);
    let row = row_of(group.y, group.x - params.heads);
    put(rope(raw * inverse_rms(raw, lane) * weight, cs), lane);
    store_key(row, lane);
    return;
  }
  let weight = head_weight(lane);
  let query = rope(raw * inverse_rms(raw, lane) * weight, cs);
  if !has_pair(lane) { return; }
  let to = (group.y * params.heads + group.x) * params.dim;
  queries[to + lane] = query.x;
  queries[to + params.dim / 2u + lane] = query.y;
}
