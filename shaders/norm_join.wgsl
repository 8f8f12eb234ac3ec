// More of what follows one another around a residual, in one dispatch; rows as in norm_quads.wgsl, which comes first.
//
//   norm_add__two_norms  norm_add, then the norms of its sum with two weights
//   norm_add__twice      norm_add of `dense` with scale 1, norm_add, the norm of the sum
//   norm_add__branches   y = n(dense) * dense_w + n(x) * x_w; norm_add of y; the norm of its sum
//
// Spec    core/src/ops/rms_norm.rs, core/src/ops/add.rs, core/src/ops/norm_add.rs
// Launch  one workgroup of REDUCE_THREADS per row
// Differs from the spec only in the order of the sums (f32: by lane, then over the workgroup), and in what is fused.

@group(0) @binding(5) var<storage, read_write> other: array<vec4<f32>>;  // [rows, cols / 4]
@group(0) @binding(6) var<storage, read> other_w: array<vec4<f32>>;      // [cols / 4]
@group(0) @binding(5) var<storage, read> dense: array<vec4<f32>>;        // [rows, cols / 4]
@group(0) @binding(6) var<storage, read> dense_w: array<vec4<f32>>;      // [cols / 4]
@group(0) @binding(7) var<storage, read> x_w: array<vec4<f32>>;          // [cols / 4]

fn load_other_w(lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = other_w[lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = other_w[lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = other_w[lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = other_w[lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = other_w[lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = other_w[lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn store_other(row: u32, lane: u32, v: Quads) {
  let end = params.cols / 4u;
  if lane < end { other[row + lane] = v.q0; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { other[row + lane + REDUCE_THREADS] = v.q1; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { other[row + lane + 2u * REDUCE_THREADS] = v.q2; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { other[row + lane + 3u * REDUCE_THREADS] = v.q3; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { other[row + lane + 4u * REDUCE_THREADS] = v.q4; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { other[row + lane + 5u * REDUCE_THREADS] = v.q5; }
}

@compute @workgroup_size(REDUCE_THREADS)
fn norm_add__two_norms(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * (params.cols / 4u);
  let weight = load_next_w(lane);
  let other_weight = load_other_w(lane);
  let sum = add_all(load_x(row, lane), row, lane);
  let scale = inverse_rms(sum, params.next_eps, lane);
  store_next(row, lane, weighted(sum, scale, weight));
  store_other(row, lane, weighted(sum, scale, other_weight));
}

fn load_dense(row: u32, lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = dense[row + lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = dense[row + lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = dense[row + lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = dense[row + lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = dense[row + lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = dense[row + lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn load_dense_w(lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = dense_w[lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = dense_w[lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = dense_w[lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = dense_w[lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = dense_w[lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = dense_w[lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn load_x_w(lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = x_w[lane]; }
  if ROW_QUADS > 1u && lane + REDUCE_THREADS < end { v.q1 = x_w[lane + REDUCE_THREADS]; }
  if ROW_QUADS > 2u && lane + 2u * REDUCE_THREADS < end { v.q2 = x_w[lane + 2u * REDUCE_THREADS]; }
  if ROW_QUADS > 3u && lane + 3u * REDUCE_THREADS < end { v.q3 = x_w[lane + 3u * REDUCE_THREADS]; }
  if ROW_QUADS > 4u && lane + 4u * REDUCE_THREADS < end { v.q4 = x_w[lane + 4u * REDUCE_THREADS]; }
  if ROW_QUADS > 5u && lane + 5u * REDUCE_THREADS < end { v.q5 = x_w[lane + 5u * REDUCE_THREADS]; }
  return v;
}

fn joined(a: vec4<f32>, m: f32, a_w: vec4<f32>, b: vec4<f32>, n: f32, b_w: vec4<f32>) -> vec4<f32> {
  return fma(b * n, b_w, a * m * a_w);
}

// Both branches, normed.
fn join(row: u32, lane: u32) -> Quads {
  let a = load_dense(row, lane);
  let b = load_x(row, lane);
  let c = load_dense_w(lane);
  let d = load_x_w(lane);
  let m = inverse_rms(a, params.eps, lane);
  let n = inverse_rms(b, params.eps, lane);
  return Quads(
    joined(a.q0, m, c.q0, b.q0, n, d.q0), joined(a.q1, m, c.q1, b.q1, n, d.q1), joined(a.q2, m, c.q2, b.q2, n, d.q2),
    joined(a.q3, m, c.q3, b.q3, n, d.q3), joined(a.q4, m, c.q4, b.q4, n, d.q4), joined(a.q5, m, c.q5, b.q5, n, d.q5),
  );
}

@compute @workgroup_size(REDUCE_THREADS)
fn norm_add__branches(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * (params.cols / 4u);
  let weight = load_next_w(lane);
  let sum = add_all(join(row, lane), row, lane);
  store_next(row, lane, weighted(sum, inverse_rms(sum, params.next_eps, lane), weight));
}

fn first_added(branch: vec4<f32>, norm: f32, weight: vec4<f32>, before: vec4<f32>) -> vec4<f32> {
  return fma(branch * norm, weight, before);
}

@compute @workgroup_size(REDUCE_THREADS)
fn norm_add__twice(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * (params.cols / 4u);
  let a = load_dense(row, lane);
  let b = load_x(row, lane);
  let a_w = load_dense_w(lane);
  let b_w = load_w(lane);
  let r = load_residual(row, lane);
  let weight = load_next_w(lane);
  let m = inverse_rms(a, params.eps, lane);
  let n = inverse_rms(b, params.eps, lane);
  let sum = Quads(
    added(b.q0, n, b_w.q0, first_added(a.q0, m, a_w.q0, r.q0)), added(b.q1, n, b_w.q1, first_added(a.q1, m, a_w.q1, r.q1)),
    added(b.q2, n, b_w.q2, first_added(a.q2, m, a_w.q2, r.q2)), added(b.q3, n, b_w.q3, first_added(a.q3, m, a_w.q3, r.q3)),
    added(b.q4, n, b_w.q4, first_added(a.q4, m, a_w.q4, r.q4)), added(b.q5, n, b_w.q5, first_added(a.q5, m, a_w.q5, r.q5)),
  );
  store_residual(row, lane, sum);
  store_next(row, lane, weighted(sum, inverse_rms(sum, params.next_eps, lane), weight));
}
