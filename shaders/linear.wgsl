// linear: out[r, first + o] = sum over c of x[r, c] * w[o, c]
//
// Spec    core/src/ops/linear.rs
// Launch  linear__any  x, y: LINEAR_GROUPS outputs a workgroup; z: rows
// Differs from the spec in the order of the sum (f32: strided by lane, then a tree).

@group(0) @binding(0) var<storage, read> x: array<f32>;          // [rows, cols]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride] words
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(1) @binding(0) var<uniform> params: LinearParams;

// Outputs of a workgroup of 256: one for each 32 lanes.
const LINEAR_GROUPS = 8u;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn linear__any(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index & 31u;
  let output = (group.y * groups.x + group.x) * LINEAR_GROUPS + (index >> 5u);
  let row = min(output, params.outputs - 1u) * params.stride;
  let x_row = group.z * params.cols;
  var sum = 0.0;
  for (var c = lane; c < params.cols; c += 32u) {
    sum = fma(weight_at(row, row + params.tails, c), x[x_row + c], sum);
  }
  partial[index] = sum;
  for (var half = 16u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { partial[index] += partial[index + half]; }
  }
  if lane == 0u && output < params.outputs {
    out[group.z * params.out_cols + params.first + output] = partial[index];
  }
}
