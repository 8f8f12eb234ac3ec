// linear, then glu: out[r, first + o] = gelu(sum over c of x[r, c] * w[o, c]) * sum over c of x[r, c] * up[o, c]
//
// Spec    core/src/ops/linear.rs, core/src/ops/glu.rs
// Launch  x, y: 2 * LANES_THREADS / LANES outputs a workgroup; z: ROWS rows a workgroup
// Differs from the spec in f32 arithmetic and in the order of the sums: see common/matvec.wgsl.

@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;   // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride] words
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(0) @binding(3) var<storage, read> up: array<vec4<u32>>;   // [outputs, stride] words
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

// Stores two outputs of row `r` of the workgroup's. `sum` is two products with the gate, then the two with `up`.
fn store(sum: vec4<f32>, r: u32, rows: u32, row: u32, output: u32, index: u32) {
  // No invocation may leave before the sum. ROWS and rows are the same for all of them.
  if ROWS <= r || rows <= r { return; }
  let total = lanes_sum(sum, index);
  if (index & (LANES - 1u)) != 0u || output >= params.outputs { return; }
  let at = (row + r) * params.out_cols + params.first + output;
  out[at] = gelu_tanh(total.x) * total.z;
  if output + 1u < params.outputs { out[at + 1u] = gelu_tanh(total.y) * total.w; }
}

@compute @workgroup_size(LANES_THREADS)
fn linear__glu(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let output = 2u * ((group.y * groups.x + group.x) * (LANES_THREADS / LANES) + index / LANES);
  let starts = min(vec2(output, output + 1u), vec2(params.outputs - 1u)) * params.stride;
  let row = group.z * ROWS;
  let rows = select(step.rows, step.picked, params.picked != 0u) - row;
  let quad = row * (params.cols / 4u);
  let s = matvec(starts.xyxy, params.tails, params.cols / 32u, index & (LANES - 1u), quad, rows);
  store(s.a, 0u, rows, row, output, index);
  store(s.b, 1u, rows, row, output, index);
  store(s.c, 2u, rows, row, output, index);
  store(s.d, 3u, rows, row, output, index);
  store(s.e, 4u, rows, row, output, index);
  store(s.f, 5u, rows, row, output, index);
  store(s.g, 6u, rows, row, output, index);
  store(s.h, 7u, rows, row, output, index);
}
