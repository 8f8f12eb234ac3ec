// linear: out[r, first + o] = sum over c of x[r, c] * w[o, c]
//
// Spec    core/src/ops/linear.rs
// Launch  x, y: 4 * LANES_THREADS / LANES outputs a workgroup; z: ROWS rows a workgroup
//         linear__any (widths that are no multiple of 32): x, y: LINEAR_ANY_OUTPUTS outputs a workgroup; z: rows
// With CAP_BITS, the softcap of the outputs (core/src/ops/softcap.rs).
// Differs from the spec in the order of the sum (f32): see common/matvec.wgsl; strided by lane, then a tree, in linear__any.

@group(0) @binding(0) var<storage, read> x: array<f32>;          // [rows, cols]
@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;   // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride] words
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

// Bits of the largest magnitude of outputs, if they are capped.
override CAP_BITS: u32 = 0u;

fn capped(x: f32) -> f32 {
  if CAP_BITS == 0u { return x; }
  let cap = bitcast<f32>(CAP_BITS);
  return cap * tanh_wide(x / cap);
}

// Stores the products of row `r` of the workgroup's with four rows of weights.
fn store(sum: vec4<f32>, r: u32, rows: u32, row: u32, output: u32, index: u32) {
  // No invocation may leave before the sum. ROWS and rows are the same for all of them.
  if ROWS <= r || rows <= r { return; }
  let total = lanes_sum(sum, index);
  if (index & (LANES - 1u)) != 0u || output >= params.outputs { return; }
  let at = (row + r) * params.out_cols + params.first + output;
  out[at] = capped(total.x);
  if output + 1u < params.outputs { out[at + 1u] = capped(total.y); }
  if output + 2u < params.outputs { out[at + 2u] = capped(total.z); }
  if output + 3u < params.outputs { out[at + 3u] = capped(total.w); }
}

@compute @workgroup_size(LANES_THREADS)
fn linear(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let output = 4u * ((group.y * groups.x + group.x) * (LANES_THREADS / LANES) + index / LANES);
  let last = params.outputs - 1u;
  let outputs = min(vec4(output, output + 1u, output + 2u, output + 3u), vec4(last));
  let row = group.z * ROWS;
  let rows = select(step.rows, step.picked, params.picked != 0u) - row;
  let chunks = params.cols / 32u;
  let in_group = index & (LANES - 1u);
  let s = matvec(outputs * params.stride, params.tails, chunks, in_group, row * (params.cols / 4u), rows);
  store(s.a, 0u, rows, row, output, index);
  store(s.b, 1u, rows, row, output, index);
  store(s.c, 2u, rows, row, output, index);
  store(s.d, 3u, rows, row, output, index);
  store(s.e, 4u, rows, row, output, index);
  store(s.f, 5u, rows, row, output, index);
  store(s.g, 6u, rows, row, output, index);
  store(s.h, 7u, rows, row, output, index);
}

// Outputs of a workgroup of linear__any: one for each 32 invocations.
const LINEAR_ANY_OUTPUTS = 8u;

var<workgroup> linear_partial: array<f32, 32u * LINEAR_ANY_OUTPUTS>;

@compute @workgroup_size(32u * LINEAR_ANY_OUTPUTS)
fn linear__any(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index & 31u;
  let output = (group.y * groups.x + group.x) * LINEAR_ANY_OUTPUTS + (index >> 5u);
  let row = min(output, params.outputs - 1u) * params.stride;
  let x_row = group.z * params.cols;
  var sum = 0.0;
  for (var c = lane; c < params.cols; c += 32u) {
    sum = fma(weight_at(row, row + params.tails, c), x[x_row + c], sum);
  }
  linear_partial[index] = sum;
  for (var half = 16u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { linear_partial[index] += linear_partial[index + half]; }
  }
  if lane == 0u && output < params.outputs {
    out[group.z * params.out_cols + params.first + output] = linear_partial[index];
  }
}
