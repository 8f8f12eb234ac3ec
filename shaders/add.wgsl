// add: x[r, c] = x[r, c] + y[r, c]
//
// Spec    core/src/ops/add.rs
// Launch  x: workgroups of 4 * ROW_THREADS columns; y: rows

@group(0) @binding(0) var<storage, read_write> x: array<f32>;  // [rows, cols]
@group(0) @binding(1) var<storage, read> y: array<f32>;        // [rows, cols]
@group(1) @binding(0) var<uniform> params: ElementParams;

@compute @workgroup_size(ROW_THREADS)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * params.cols;
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.cols);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    x[row + c] += y[row + c];
  }
}
