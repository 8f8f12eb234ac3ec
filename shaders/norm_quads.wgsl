// rms_norm and norm_add of rows that fit the registers of a workgroup: up to 24 * REDUCE_THREADS columns, a multiple
// of four. All loads of a row, its weights among them, are in flight at once, so a row costs one latency instead of one a
// column and one a barrier. With subgroups a workgroup has as many invocations as it can have, up to one a quad: each has few
// instructions, and fetches most of them once.
//
// Spec    core/src/ops/rms_norm.rs, core/src/ops/norm_add.rs
// Launch  one workgroup of REDUCE_THREADS per row
// Differs from the spec only in the order of the sum (f32: by lane, then over the workgroup).
//
// `norm_add__rms_norm` is both: the new residual, and its norm with the weight of what follows.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;               // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;               // [cols / 4]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;         // [rows, cols / 4]
@group(0) @binding(2) var<storage, read_write> residual: array<vec4<f32>>;  // [rows, cols / 4]
@group(0) @binding(3) var<storage, read_write> next: array<vec4<f32>>;      // [rows, cols / 4]
@group(0) @binding(4) var<storage, read> next_w: array<vec4<f32>>;          // [cols / 4]
@group(0) @binding(3) var<storage, read> picked: array<u32>;                // [rows]
@group(1) @binding(0) var<uniform> params: NormParams;

// How many quads of a row an invocation has at most, up to 6.
override ROW_QUADS: u32 = 6u;

// Those quads: number i is at lane + i * REDUCE_THREADS, zero past the end.
struct Quads { q0: vec4<f32>, q1: vec4<f32>, q2: vec4<f32>, q3: vec4<f32>, q4: vec4<f32>, q5: vec4<f32> }

fn sum_of_squares(v: Quads) -> f32 {
  let even = fma(v.q4, v.q4, fma(v.q2, v.q2, v.q0 * v.q0));
  let odd = fma(v.q5, v.q5, fma(v.q3, v.q3, v.q1 * v.q1));
  let both = even + odd;
  return (both.x + both.y) + (both.z + both.w);
}

fn inverse_rms(v: Quads, eps: f32, lane: u32) -> f32 {
  return inverseSqrt(workgroup_sum(sum_of_squares(v), lane) / f32(params.cols) + eps);
}

// v * scale * weight.
fn weighted(v: Quads, scale: f32, weight: Quads) -> Quads {
  return Quads(
    v.q0 * scale * weight.q0, v.q1 * scale * weight.q1, v.q2 * scale * weight.q2,
    v.q3 * scale * weight.q3, v.q4 * scale * weight.q4, v.q5 * scale * weight.q5,
  );
}

fn load_x(row: u32, lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = x[row + lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = x[row + lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = x[row + lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = x[row + lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = x[row + lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = x[row + lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn load_w(lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = w[lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = w[lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = w[lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = w[lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = w[lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = w[lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn load_next_w(lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = next_w[lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = next_w[lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = next_w[lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = next_w[lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = next_w[lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = next_w[lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn load_residual(row: u32, lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = residual[row + lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = residual[row + lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = residual[row + lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = residual[row + lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = residual[row + lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = residual[row + lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn store_y(row: u32, lane: u32, v: Quads) {
  let end = params.cols / 4u;
  if lane < end { y[row + lane] = v.q0; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { y[row + lane + REDUCE_THREADS] = v.q1; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { y[row + lane + 2u * REDUCE_THREADS] = v.q2; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { y[row + lane + 3u * REDUCE_THREADS] = v.q3; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { y[row + lane + 4u * REDUCE_THREADS] = v.q4; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { y[row + lane + 5u * REDUCE_THREADS] = v.q5; }
}

fn store_next(row: u32, lane: u32, v: Quads) {
  let end = params.cols / 4u;
  if lane < end { next[row + lane] = v.q0; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { next[row + lane + REDUCE_THREADS] = v.q1; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { next[row + lane + 2u * REDUCE_THREADS] = v.q2; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { next[row + lane + 3u * REDUCE_THREADS] = v.q3; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { next[row + lane + 4u * REDUCE_THREADS] = v.q4; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { next[row + lane + 5u * REDUCE_THREADS] = v.q5; }
}

fn store_residual(row: u32, lane: u32, v: Quads) {
  let end = params.cols / 4u;
  if lane < end { residual[row + lane] = v.q0; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { residual[row + lane + REDUCE_THREADS] = v.q1; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { residual[row + lane + 2u * REDUCE_THREADS] = v.q2; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { residual[row + lane + 3u * REDUCE_THREADS] = v.q3; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { residual[row + lane + 4u * REDUCE_THREADS] = v.q4; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { residual[row + lane + 5u * REDUCE_THREADS] = v.q5; }
}

@compute @workgroup_size(REDUCE_THREADS)
fn rms_norm__quads(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * (params.cols / 4u);
  let v = load_x(row, lane);
  let weight = load_w(lane);
  store_y(row, lane, weighted(v, inverse_rms(v, params.eps, lane), weight));
}

// gather_rows, then rms_norm: row r of `y` is made of row picked[r] of `x`.
@compute @workgroup_size(REDUCE_THREADS)
fn rms_norm__picked(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let quads = params.cols / 4u;
  let v = load_x(picked[group.x] * quads, lane);
  let weight = load_w(lane);
  store_y(group.x * quads, lane, weighted(v, inverse_rms(v, params.eps, lane), weight));
}

fn added(branch: vec4<f32>, norm: f32, weight: vec4<f32>, before: vec4<f32>) -> vec4<f32> {
  return fma(branch * norm, weight, before) * params.scale;
}

// The residual with the branch `v` added; it goes to its buffer and is returned.
fn add_all(v: Quads, row: u32, lane: u32) -> Quads {
  let r = load_residual(row, lane);
  let weight = load_w(lane);
  let norm = inverse_rms(v, params.eps, lane);
  let sum = Quads(
    added(v.q0, norm, weight.q0, r.q0), added(v.q1, norm, weight.q1, r.q1), added(v.q2, norm, weight.q2, r.q2),
    added(v.q3, norm, weight.q3, r.q3), added(v.q4, norm, weight.q4, r.q4), added(v.q5, norm, weight.q5, r.q5),
  );
  store_residual(row, lane, sum);
  return sum;
}

@compute @workgroup_size(REDUCE_THREADS)
fn norm_add__quads(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * (params.cols / 4u);
  let sum = add_all(load_x(row, lane), row, lane);
}

@compute @workgroup_size(REDUCE_THREADS)
fn norm_add__rms_norm(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * (params.cols / 4u);
  let weight = load_next_w(lane);
  let sum = add_all(load_x(row, lane), row, lane);
  store_next(row, lane, weighted(sum, inverse_rms(sum, params.next_eps, lane), weight));
}
