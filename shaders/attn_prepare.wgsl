// attn_prepare: norms and turns the heads of a row; keys and values go to the cache.
//   queries  out[r, h] = rope(n(q[r, h]) * q_norm)                      n(x) = x / sqrt(mean(x^2) + eps)
//   cache    key = rope(n(k[r, h]) * k_norm), value = n(v[r, h]), or v[r, h] itself where values are plain
//
// Spec    core/src/ops/attn_prepare.rs, core/src/kv_type.rs
// Launch  queries: x: query heads, y: rows; cache: x: key heads, then value heads, y: rows; ROW_THREADS a workgroup
//         both: x: query heads, key heads, value heads, y: rows; it needs nine storage buffers
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
@group(0) @binding(7) var<storage, read> key_weight: array<f32>;    // [dim]
@group(0) @binding(8) var<storage, read_write> queries: array<f32>; // [rows, heads * dim]
@group(1) @binding(0) var<uniform> params: PrepareParams;

var<workgroup> head_values: array<f32, HEAD_MAX>;

// Loads the head that starts at `start` and returns what norms it. Each invocation has its own values from here.
fn load_head(start: u32, lane: u32) -> f32 {
  var squares = 0.0;
  for (var i = lane; i < params.dim; i += ROW_THREADS) {
    let x = qkv[start + i];
    squares = fma(x, x, squares);
    head_values[i] = x;
  }
  return inverseSqrt(workgroup_sum(squares, lane) / f32(params.dim) + params.eps);
}

// Norms the head with `norm_weight`, with `key_weight` or with none. Each ends with a barrier.
fn norm_head(scale: f32, lane: u32) {
  for (var i = lane; i < params.dim; i += ROW_THREADS) { head_values[i] = head_values[i] * scale * norm_weight[i]; }
  workgroupBarrier();
}

fn norm_key(scale: f32, lane: u32) {
  for (var i = lane; i < params.dim; i += ROW_THREADS) { head_values[i] = head_values[i] * scale * key_weight[i]; }
  workgroupBarrier();
}

fn norm_value(scale: f32, lane: u32) {
  if params.plain == 0u {
    for (var i = lane; i < params.dim; i += ROW_THREADS) { head_values[i] = head_values[i] * scale; }
  }
  workgroupBarrier();
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

// Turns the pairs (i, i + dim / 2) of head_values, which belong to one invocation each.
fn rope(position: u32, lane: u32) {
  let half = params.dim / 2u;
  for (var i = lane; i < half; i += ROW_THREADS) {
    let cs = turn(f32(position) * frequency[i]);
    let a = head_values[i];
    let b = head_values[i + half];
    head_values[i] = fma(a, cs.x, -(b * cs.y));
    head_values[i + half] = fma(b, cs.x, a * cs.y);
  }
  workgroupBarrier();
}

// First element of head `head` of row `r`, among heads from column `first` on.
fn head_start(r: u32, first: u32, head: u32) -> u32 { return r * params.width + first + head * params.dim; }

@compute @workgroup_size(ROW_THREADS)
fn attn_prepare__queries(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  norm_head(load_head(head_start(group.y, 0u, group.x), lane), lane);
  rope(rows[group.y].position, lane);
  let to = (group.y * params.heads + group.x) * params.dim;
  for (var i = lane; i < params.dim; i += ROW_THREADS) { out[to + i] = head_values[i]; }
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

@compute @workgroup_size(ROW_THREADS)
fn attn_prepare__cache(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if group.x >= params.kv_heads {
    let head = group.x - params.kv_heads;
    norm_value(load_head(head_start(group.y, params.value_start, head), lane), lane);
    store_value(row_of(group.y, head), lane);
    return;
  }
  norm_head(load_head(head_start(group.y, params.heads * params.dim, group.x), lane), lane);
  rope(rows[group.y].position, lane);
  store_key(row_of(group.y, group.x), lane);
}

@compute @workgroup_size(ROW_THREADS)
fn attn_prepare__both(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if group.x >= params.heads + params.kv_heads {
    let head = group.x - params.heads - params.kv_heads;
    norm_value(load_head(head_start(group.y, params.value_start, head), lane), lane);
    store_value(row_of(group.y, head), lane);
    return;
  }
  let scale = load_head(head_start(group.y, 0u, group.x), lane);
  if group.x >= params.heads { norm_key(scale, lane); } else { norm_head(scale, lane); }
  rope(rows[group.y].position, lane);
  if group.x >= params.heads {
    store_key(row_of(group.y, group.x - params.heads), lane);
    return;
  }
  let to = (group.y * params.heads + group.x) * params.dim;
  for (var i = lane; i < params.dim; i += ROW_THREADS) { queries[to + i] = head_values[i]; }
}
