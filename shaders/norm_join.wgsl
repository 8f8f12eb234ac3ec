// More of what follows one another around a residual, in one dispatch; rows as in norm_quads.wgsl, which comes first.
//
//   norm_add__two_norms  norm_add, then the norms of its sum with two weights
//   norm_add__branches   y = n(dense) * dense_w + n(x) * x_w; norm_add of y; the norm of its sum
//
// Spec    core/src/ops/rms_norm.rs, core/src/ops/add.rs, core/src/ops/norm_add.rs
// Launch  one workgroup of ROW_THREADS per row
// Differs from the spec only in the order of the sums (f32: by lane, then over the workgroup), and in what is fused.

@group(0) @binding(5) var<storage, read_write> other: array<vec4<f32>>;  // [rows, cols / 4]
@group(0) @binding(6) var<storage, read> other_w: array<vec4<f32>>;      // [cols / 4]
@group(0) @binding(5) var<storage, read> dense: array<vec4<f32>>;        // [rows, cols / 4]
@group(0) @binding(6) var<storage, read> dense_w: array<vec4<f32>>;      // [cols / 4]
@group(0) @binding(7) var<storage, read> x_w: array<vec4<f32>>;          // [cols / 4]

fn put_both(row: u32, i: u32, value: vec4<f32>) {
  next[row + i] = value * next_w[i];
  other[row + i] = value * other_w[i];
}

@compute @workgroup_size(ROW_THREADS)
fn norm_add__two_norms(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let end = params.cols / 4u;
  let row = group.x * end;
  let sum = add_all(load_x(row, lane), row, lane);
  let scale = inverse_rms(sum, params.next_eps, lane);
  if lane < end { put_both(row, lane, sum.q0 * scale); }
  if lane + ROW_THREADS < end { put_both(row, lane + ROW_THREADS, sum.q1 * scale); }
  if lane + 2u * ROW_THREADS < end { put_both(row, lane + 2u * ROW_THREADS, sum.q2 * scale); }
  if lane + 3u * ROW_THREADS < end { put_both(row, lane + 3u * ROW_THREADS, sum.q3 * scale); }
  if lane + 4u * ROW_THREADS < end { put_both(row, lane + 4u * ROW_THREADS, sum.q4 * scale); }
  if lane + 5u * ROW_THREADS < end { put_both(row, lane + 5u * ROW_THREADS, sum.q5 * scale); }
}

fn load_dense(row: u32, lane: u32) -> Quads {
  let end = params.cols / 4u;
  var v = Quads();
  if lane < end { v.q0 = dense[row + lane]; }
  if lane + ROW_THREADS < end { v.q1 = dense[row + lane + ROW_THREADS]; }
  if lane + 2u * ROW_THREADS < end { v.q2 = dense[row + lane + 2u * ROW_THREADS]; }
  if lane + 3u * ROW_THREADS < end { v.q3 = dense[row + lane + 3u * ROW_THREADS]; }
  if lane + 4u * ROW_THREADS < end { v.q4 = dense[row + lane + 4u * ROW_THREADS]; }
  if lane + 5u * ROW_THREADS < end { v.q5 = dense[row + lane + 5u * ROW_THREADS]; }
  return v;
}

fn joined(i: u32, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return fma(b, x_w[i], a * dense_w[i]); }

// Both branches, normed.
fn join(row: u32, lane: u32) -> Quads {
  let end = params.cols / 4u;
  let a = load_dense(row, lane);
  let b = load_x(row, lane);
  let m = inverse_rms(a, params.eps, lane);
  let n = inverse_rms(b, params.eps, lane);
  var y = Quads();
  if lane < end { y.q0 = joined(lane, a.q0 * m, b.q0 * n); }
  if lane + ROW_THREADS < end { y.q1 = joined(lane + ROW_THREADS, a.q1 * m, b.q1 * n); }
  if lane + 2u * ROW_THREADS < end { y.q2 = joined(lane + 2u * ROW_THREADS, a.q2 * m, b.q2 * n); }
  if lane + 3u * ROW_THREADS < end { y.q3 = joined(lane + 3u * ROW_THREADS, a.q3 * m, b.q3 * n); }
  if lane + 4u * ROW_THREADS < end { y.q4 = joined(lane + 4u * ROW_THREADS, a.q4 * m, b.q4 * n); }
  if lane + 5u * ROW_THREADS < end { y.q5 = joined(lane + 5u * ROW_THREADS, a.q5 * m, b.q5 * n); }
  return y;
}

@compute @workgroup_size(ROW_THREADS)
fn norm_add__branches(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let end = params.cols / 4u;
  let row = group.x * end;
  let sum = add_all(join(row, lane), row, lane);
  let scale = inverse_rms(sum, params.next_eps, lane);
  if lane < end { put_next(row, lane, sum.q0 * scale); }
  if lane + ROW_THREADS < end { put_next(row, lane + ROW_THREADS, sum.q1 * scale); }
  if lane + 2u * ROW_THREADS < end { put_next(row, lane + 2u * ROW_THREADS, sum.q2 * scale); }
  if lane + 3u * ROW_THREADS < end { put_next(row, lane + 3u * ROW_THREADS, sum.q3 * scale); }
  if lane + 4u * ROW_THREADS < end { put_next(row, lane + 4u * ROW_THREADS, sum.q4 * scale); }
  if lane + 5u * ROW_THREADS < end { put_next(row, lane + 5u * ROW_THREADS, sum.q5 * scale); }
}
