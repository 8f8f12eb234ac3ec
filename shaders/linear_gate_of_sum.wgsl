// norm_add, then linear, then glu with another operand, as where a layer meets its per-layer input:
//   s[r] = residual[r] + n(branch[r]) * sum_w                           n(x) = x / sqrt(mean(x^2) + eps)
//   out[r, first + o] = gelu(sum over c of s[r, c] * w[o, c]) * up[r, first + o]
//
// Spec    core/src/ops/norm_add.rs, core/src/ops/linear.rs, core/src/ops/glu.rs
// Launch  x, y: 4 * LANES_THREADS / LANES outputs a workgroup; z: rows; up to 24 * LANES_THREADS columns; ROWS is 1
// Differs from the spec in f32 arithmetic and in the order of the sums: see common/matvec.wgsl.
//
// Every workgroup makes the sum for itself: that takes less time than to wait for a dispatch that does. It is not stored;
// norm_add__twice makes it again.

@group(0) @binding(0) var<storage, read> branch: array<vec4<f32>>;    // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;         // [outputs, stride] words
@group(0) @binding(2) var<storage, read_write> out: array<f32>;       // [rows, out_cols]
@group(0) @binding(3) var<storage, read> up: array<f32>;              // [rows, up_cols], from up_start
@group(0) @binding(4) var<storage, read> residual: array<vec4<f32>>;  // [rows, cols / 4]
@group(0) @binding(5) var<storage, read> sum_w: array<vec4<f32>>;     // [cols / 4]
@group(1) @binding(0) var<uniform> params: LinearParams;

// Bits of what is added to the mean square.
override EPS_BITS: u32 = 0u;

// The sum, as common/matvec.wgsl reads it.
override SUM_QUADS: u32 = 6u * LANES_THREADS;
var<workgroup> x4: array<vec4<f32>, SUM_QUADS>;
override SUM_GROUPS: u32 = LANES_THREADS / 8u;
var<workgroup> group_squares: array<f32, SUM_GROUPS>;

fn branch_at(row: u32, i: u32) -> vec4<f32> {
  if 4u * i >= params.cols { return vec4(0.0); }
  return branch[row + i];
}

fn residual_at(row: u32, i: u32) -> vec4<f32> {
  if 4u * i >= params.cols { return vec4(0.0); }
  return residual[row + i];
}

fn sum_w_at(i: u32) -> vec4<f32> {
  if 4u * i >= params.cols { return vec4(0.0); }
  return sum_w[i];
}

// The sum over all invocations, in each of them.
fn sum_of_all(value: f32, index: u32) -> f32 {
  let mine = lanes_sum(vec4(value, 0.0, 0.0, 0.0), index).x;
  if (index & (LANES - 1u)) == 0u { group_squares[index / LANES] = mine; }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < LANES_THREADS / LANES; i++) { sum += group_squares[i]; }
  return sum;
}

fn make_sum(row: u32, index: u32) {
  let b0 = branch_at(row, index);
  let b1 = branch_at(row, index + LANES_THREADS);
  let b2 = branch_at(row, index + 2u * LANES_THREADS);
  let b3 = branch_at(row, index + 3u * LANES_THREADS);
  let b4 = branch_at(row, index + 4u * LANES_THREADS);
  let b5 = branch_at(row, index + 5u * LANES_THREADS);
  let r0 = residual_at(row, index);
  let r1 = residual_at(row, index + LANES_THREADS);
  let r2 = residual_at(row, index + 2u * LANES_THREADS);
  let r3 = residual_at(row, index + 3u * LANES_THREADS);
  let r4 = residual_at(row, index + 4u * LANES_THREADS);
  let r5 = residual_at(row, index + 5u * LANES_THREADS);
  let w0 = sum_w_at(index);
  let w1 = sum_w_at(index + LANES_THREADS);
  let w2 = sum_w_at(index + 2u * LANES_THREADS);
  let w3 = sum_w_at(index + 3u * LANES_THREADS);
  let w4 = sum_w_at(index + 4u * LANES_THREADS);
  let w5 = sum_w_at(index + 5u * LANES_THREADS);
  let even = fma(b4, b4, fma(b2, b2, b0 * b0));
  let odd = fma(b5, b5, fma(b3, b3, b1 * b1));
  let both = even + odd;
  let squares = sum_of_all((both.x + both.y) + (both.z + both.w), index);
  let norm = inverseSqrt(squares / f32(params.cols) + bitcast<f32>(EPS_BITS));
  x4[index] = fma(b0 * norm, w0, r0);
  x4[index + LANES_THREADS] = fma(b1 * norm, w1, r1);
  x4[index + 2u * LANES_THREADS] = fma(b2 * norm, w2, r2);
  x4[index + 3u * LANES_THREADS] = fma(b3 * norm, w3, r3);
  x4[index + 4u * LANES_THREADS] = fma(b4 * norm, w4, r4);
  x4[index + 5u * LANES_THREADS] = fma(b5 * norm, w5, r5);
  workgroupBarrier();
}

fn store_one(value: f32, row: u32, output: u32) {
  if output >= params.outputs { return; }
  let col = params.first + output;
  out[row * params.out_cols + col] = gelu_tanh(value) * up[row * params.up_cols + params.up_start + col];
}

@compute @workgroup_size(LANES_THREADS)
fn linear__gate_of_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let output = 4u * ((group.y * groups.x + group.x) * (LANES_THREADS / LANES) + index / LANES);
  let outputs = min(vec4(output) + vec4(0u, 1u, 2u, 3u), vec4(params.outputs - 1u));
  make_sum(group.z * (params.cols / 4u), index);
  let own = index & (LANES - 1u);
  let sums = matvec(outputs * params.stride, params.tails, params.cols / 32u, own, 0u, 1u);
  let total = lanes_sum(sums.a, index);
  if own != 0u { return; }
  store_one(total.x, group.z, output);
  store_one(total.y, group.z, output + 1u);
  store_one(total.z, group.z, output + 2u);
  store_one(total.w, group.z, output + 3u);
}
