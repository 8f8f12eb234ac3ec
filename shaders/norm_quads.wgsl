// rms_norm and norm_add of rows that fit the registers of a workgroup: up to 24 * ROW_THREADS columns, a multiple
// of four. All loads of a row are in flight at once, so a row costs one latency instead of one a column.
//
// Spec    core/src/ops/rms_norm.rs, core/src/ops/norm_add.rs
// Launch  one workgroup of ROW_THREADS per row
// Differs from the spec only in the order of the sums (f32: by lane, then over the workgroup).
//
// `norm_add__rms_norm` is both: the new residual, and its norm with the weight of what follows.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;               // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;               // [cols / 4]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;         // [rows, cols / 4]
@group(0) @binding(2) var<storage, read_write> residual: array<vec4<f32>>;  // [rows, cols / 4]
@group(0) @binding(3) var<storage, read_write> next: array<vec4<f32>>;      // [rows, cols / 4]
@group(0) @binding(4) var<storage, read> next_w: array<vec4<f32>>;          // [cols / 4]
@group(1) @binding(0) var<uniform> params: NormParams;

// The quads of a row that one invocation has: number i is at lane + i * ROW_THREADS, zero past the end.
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

fn load_x(row: u32, lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = x[row + lane]; }
  if lane + ROW_THREADS < end { v.q1 = x[row + lane + ROW_THREADS]; }
  if lane + 2u * ROW_THREADS < end { v.q2 = x[row + lane + 2u * ROW_THREADS]; }
  if lane + 3u * ROW_THREADS < end { v.q3 = x[row + lane + 3u * ROW_THREADS]; }
  if lane + 4u * ROW_THREADS < end { v.q4 = x[row + lane + 4u * ROW_THREADS]; }
  if lane + 5u * ROW_THREADS < end { v.q5 = x[row + lane + 5u * ROW_THREADS]; }
  return v;
}

@compute @workgroup_size(ROW_THREADS)
fn rms_norm__quads(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let end = params.cols / 4u;
  let row = group.x * end;
  let v = load_x(row, lane);
  let scale = inverse_rms(v, params.eps, lane);
  if lane < end { put_y(row, lane, v.q0 * scale); }
  if lane + ROW_THREADS < end { put_y(row, lane + ROW_THREADS, v.q1 * scale); }
  if lane + 2u * ROW_THREADS < end { put_y(row, lane + 2u * ROW_THREADS, v.q2 * scale); }
  if lane + 3u * ROW_THREADS < end { put_y(row, lane + 3u * ROW_THREADS, v.q3 * scale); }
  if lane + 4u * ROW_THREADS < end { put_y(row, lane + 4u * ROW_THREADS, v.q4 * scale); }
  if lane + 5u * ROW_THREADS < end { put_y(row, lane + 5u * ROW_THREADS, v.q5 * scale); }
}

fn put_y(row: u32, i: u32, value: vec4<f32>) { y[row + i] = value * w[i]; }

// The residual with the branch added; it goes to its buffer and is returned.
fn added(row: u32, i: u32, branch: vec4<f32>, norm: f32) -> vec4<f32> {
  let sum = fma(branch * norm, w[i], residual[row + i]) * params.scale;
  residual[row + i] = sum;
  return sum;
}

fn add_all(v: Quads, row: u32, lane: u32) -> Quads {
  let end = params.cols / 4u;
  let norm = inverse_rms(v, params.eps, lane);
  var sum = Quads();
  if lane < end { sum.q0 = added(row, lane, v.q0, norm); }
  if lane + ROW_THREADS < end { sum.q1 = added(row, lane + ROW_THREADS, v.q1, norm); }
  if lane + 2u * ROW_THREADS < end { sum.q2 = added(row, lane + 2u * ROW_THREADS, v.q2, norm); }
  if lane + 3u * ROW_THREADS < end { sum.q3 = added(row, lane + 3u * ROW_THREADS, v.q3, norm); }
  if lane + 4u * ROW_THREADS < end { sum.q4 = added(row, lane + 4u * ROW_THREADS, v.q4, norm); }
  if lane + 5u * ROW_THREADS < end { sum.q5 = added(row, lane + 5u * ROW_THREADS, v.q5, norm); }
  return sum;
}

@compute @workgroup_size(ROW_THREADS)
fn norm_add__quads(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * (params.cols / 4u);
  let sum = add_all(load_x(row, lane), row, lane);
}

fn put_next(row: u32, i: u32, value: vec4<f32>) { next[row + i] = value * next_w[i]; }

@compute @workgroup_size(ROW_THREADS)
fn norm_add__rms_norm(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let end = params.cols / 4u;
  let row = group.x * end;
  let sum = add_all(load_x(row, lane), row, lane);
  let scale = inverse_rms(sum, params.next_eps, lane);
  if lane < end { put_next(row, lane, sum.q0 * scale); }
  if lane + ROW_THREADS < end { put_next(row, lane + ROW_THREADS, sum.q1 * scale); }
  if lane + 2u * ROW_THREADS < end { put_next(row, lane + 2u * ROW_THREADS, sum.q2 * scale); }
  if lane + 3u * ROW_THREADS < end { put_next(row, lane + 3u * ROW_THREADS, sum.q3 * scale); }
  if lane + 4u * ROW_THREADS < end { put_next(row, lane + 4u * ROW_THREADS, sum.q4 * scale); }
  if lane + 5u * ROW_THREADS < end { put_next(row, lane + 5u * ROW_THREADS, sum.q5 * scale); }
}
