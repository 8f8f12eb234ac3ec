// rms_norm: y[r, c] = x[r, c] / sqrt(mean(x[r, ..]^2) + eps) * w[c]
//
// Spec    core/src/ops/rms_norm.rs
// Launch  one workgroup of ROW_THREADS per row
// Differs from the spec only in the order of the sum (f32: by lane, then over the workgroup).

@group(0) @binding(0) var<storage, read> x: array<f32>;        // [rows, cols]
@group(0) @binding(1) var<storage, read> w: array<f32>;        // [cols]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [rows, cols]
@group(1) @binding(0) var<uniform> params: NormParams;

@compute @workgroup_size(ROW_THREADS)
fn rms_norm(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  let lane = lane_of(at);
  let row = group.x * params.cols;
  var squares = 0.0;
  for (var c = lane; c < params.cols; c += ROW_THREADS) {
    squares = fma(x[row + c], x[row + c], squares);
  }
  let scale = inverseSqrt(workgroup_sum(squares, lane) / f32(params.cols) + params.eps);
  for (var c = lane; c < params.cols; c += ROW_THREADS) {
    y[row + c] = x[row + c] * scale * w[c];
  }
}
