// linear, then glu with another operand: out[r, first + o] = gelu(sum over c of x[r, c] * w[o, c]) * up[r, first + o]
//
// Spec    core/src/ops/linear.rs, core/src/ops/glu.rs
// Launch  x, y: 4 * LANES_THREADS / LANES outputs a workgroup; z: ROWS rows a workgroup
// Differs from the spec in f32 arithmetic and in the order of the sums: see common/matvec.wgsl.

@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;   // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride] words
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(0) @binding(3) var<storage, read> up: array<f32>;         // [rows, up_cols], from up_start
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

fn store_one(value: f32, row: u32, output: u32) {
  if output >= params.outputs { return; }
  let col = params.first + output;
  out[row * params.out_cols + col] = gelu_tanh(value) * up[row * params.up_cols + params.up_start + col];
}

// Stores the outputs of row `r` of the workgroup's.
fn store(sum: vec4<f32>, r: u32, rows: u32, row: u32, output: u32, index: u32) {
  // No invocation may leave before the sum. ROWS and rows are the same for all of them.
  if ROWS <= r || rows <= r { return; }
  let total = lanes_sum(sum, index);
  if (index & (LANES - 1u)) != 0u { return; }
  store_one(total.x, row + r, output);
  store_one(total.y, row + r, output + 1u);
  store_one(total.z, row + r, output + 2u);
  store_one(total.w, row + r, output + 3u);
}

@compute @workgroup_size(LANES_THREADS)
fn linear__gate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let output = 4u * ((group.y * groups.x + group.x) * (LANES_THREADS / LANES) + index / LANES);
  let outputs = min(vec4(output) + vec4(0u, 1u, 2u, 3u), vec4(params.outputs - 1u));
  let row = group.z * ROWS;
  let rows = select(step.rows, step.picked, params.picked != 0u) - row;
  let quad = row * (params.cols / 4u);
  let s = matvec(outputs * params.stride, params.tails, params.cols / 32u, index & (LANES - 1u), quad, rows);
  store(s.a, 0u, rows, row, output, index);
  store(s.b, 1u, rows, row, output, index);
  store(s.c, 2u, rows, row, output, index);
  store(s.d, 3u, rows, row, output, index);
  store(s.e, 4u, rows, row, output, index);
  store(s.f, 5u, rows, row, output, index);
  store(s.g, 6u, rows, row, output, index);
  store(s.h, 7u, rows, row, output, index);
}
