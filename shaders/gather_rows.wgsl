// gather_rows: out[i, c] = x[picked[i], c]
//
// Spec    core/src/ops/gather_rows.rs
// Launch  x: workgroups of 4 * ROW_THREADS columns; y: picked rows

@group(0) @binding(0) var<storage, read> x: array<f32>;          // [rows, cols]
@group(0) @binding(1) var<storage, read> picked: array<u32>;     // [picked]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [picked, cols]
@group(1) @binding(0) var<uniform> params: ElementParams;

@compute @workgroup_size(ROW_THREADS)
fn gather_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let source = picked[group.y] * params.cols;
  let to = group.y * params.cols;
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.cols);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    out[to + c] = x[source + c];
  }
}
