// ple_inputs: out[r, l, i] = (RMSNorm(context[r, l, ..] / sqrt(hidden))[i] * norm[i]
//                             + table[token[r], l, i] * sqrt(ple)) / sqrt(2)
//
// Spec    core/src/ops/ple_inputs.rs
// Launch  x: layers; y: rows; one dispatch for each part of the table
// A row whose token is in another part is left to that part's dispatch.
// Differs from the spec in the order of the sum (f32: strided by lane, then a tree).

@group(0) @binding(0) var<storage, read> context: array<f32>;    // [rows, layers, ple]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [part_rows, stride] words
@group(0) @binding(2) var<storage, read> norm: array<f32>;       // [ple]
@group(0) @binding(3) var<storage, read> rows: array<RowInfo>;   // [rows]
@group(0) @binding(4) var<storage, read> sampled: array<u32>;    // [PLACES, SLOTS]
@group(0) @binding(5) var<storage, read_write> out: array<f32>;  // [rows, layers, ple]
@group(1) @binding(0) var<uniform> params: PleInputsParams;

@compute @workgroup_size(ROW_THREADS)
fn ple_inputs(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let info = rows[group.y];
  var token = info.token;
  if (info.flags & 1u) != 0u { token = sampled[info.slot + SLOTS * (info.flags >> 1u & (PLACES - 1u))]; }
  let here = token >= params.first && token - params.first < params.part_rows;
  // No invocation may leave before the sum, so rows of other parts take their sum too.
  let start = group.y * params.cols + group.x * params.ple;
  var squares = 0.0;
  for (var c = lane; c < params.ple; c += ROW_THREADS) {
    squares = fma(context[start + c], context[start + c], squares);
  }
  let mean = workgroup_sum(squares, lane) / f32(params.ple) * params.context_scale * params.context_scale;
  if !here { return; }
  let scale = params.context_scale * inverseSqrt(mean + params.eps);
  let row = (token - params.first) * params.stride;
  for (var c = lane; c < params.ple; c += ROW_THREADS) {
    let a = weight_at(row, row + params.tails, group.x * params.ple + c) * params.table_scale;
    out[start + c] = fma(context[start + c] * scale, norm[c], a) * 0.70710678;
  }
}
