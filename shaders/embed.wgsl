// embed: out[r, c] = table[token[r], c] * scale
//
// Spec    core/src/ops/embed.rs
// Launch  x: workgroups of 4 * ROW_THREADS columns; y: rows; one dispatch for each part of the table
// A row whose token is in another part is left to that part's dispatch.

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;    // [part_rows, stride] words
@group(0) @binding(1) var<storage, read> rows: array<RowInfo>;   // [rows]
@group(0) @binding(2) var<storage, read> sampled: array<u32>;    // [PLACES, SLOTS]
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // [rows, cols]
@group(1) @binding(0) var<uniform> params: EmbedParams;

@compute @workgroup_size(ROW_THREADS)
fn embed(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let info = rows[group.y];
  var token = info.token;
  if (info.flags & 1u) != 0u { token = sampled[info.slot + SLOTS * (info.flags >> 1u & (PLACES - 1u))]; }
  if token < params.first || token - params.first >= params.part_rows { return; }
  let row = (token - params.first) * params.stride;
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.cols);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    out[group.y * params.cols + c] = weight_at(row, row + params.tails, c) * params.scale;
  }
}
