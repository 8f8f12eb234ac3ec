// glu: out[r, c] = f(gate[r, c]) * up[r, c], where f is gelu, or silu
//
// Spec    core/src/ops/glu.rs
// Launch  x: workgroups of 4 * ROW_THREADS columns; y: rows
// Differs from the spec in f32 arithmetic.

@group(0) @binding(0) var<storage, read> gate: array<f32>;       // [rows, gate_cols], from gate_start
@group(0) @binding(1) var<storage, read> up: array<f32>;         // [rows, up_cols], from up_start
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, cols]
@group(1) @binding(0) var<uniform> params: GluParams;

override SILU: u32 = 0u;  // 1: silu

@compute @workgroup_size(ROW_THREADS)
fn glu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let gate_row = group.y * params.gate_cols + params.gate_start;
  let up_row = group.y * params.up_cols + params.up_start;
  let row = group.y * params.cols;
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.cols);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    if SILU == 1u {
      out[row + c] = silu(gate[gate_row + c]) * up[up_row + c];
    } else {
      out[row + c] = gelu_tanh(gate[gate_row + c]) * up[up_row + c];
    }
  }
}
