// norm_add: residual[r, c] = (residual[r, c] + y[r, c] / sqrt(mean(y[r, ..]^2) + eps) * w[c]) * scale
//
// Spec    core/src/ops/norm_add.rs
// Launch  one workgroup of ROW_THREADS per row
// Differs from the spec only in the order of the sum (f32: by lane, then over the workgroup).

@group(0) @binding(0) var<storage, read_write> residual: array<f32>;  // [rows, cols]
@group(0) @binding(1) var<storage, read> y: array<f32>;               // [rows, cols]
@group(0) @binding(2) var<storage, read> w: array<f32>;               // [cols]
@group(1) @binding(0) var<uniform> params: NormParams;

@compute @workgroup_size(ROW_THREADS)
fn norm_add(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * params.cols;
  var squares = 0.0;
  for (var c = lane; c < params.cols; c += ROW_THREADS) {
    squares = fma(y[row + c], y[row + c], squares);
  }
  let norm = inverseSqrt(workgroup_sum(squares, lane) / f32(params.cols) + params.eps);
  for (var c = lane; c < params.cols; c += ROW_THREADS) {
    residual[row + c] = fma(y[row + c] * norm, w[c], residual[row + c]) * params.scale;
  }
}
