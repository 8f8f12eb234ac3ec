// centroid_head, second part: found[r, i] = x[r] . table[token i of the chosen clusters]
//
// Spec    core/src/ops/centroid_head.rs
// Launch  x: workgroups of ROW_THREADS tokens; y: rows; one dispatch for each part of the table
// Differs from the spec in f32 arithmetic. A token in another part is left to that part's dispatch.

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;      // [part_rows, stride] words
@group(0) @binding(1) var<storage, read> x: array<f32>;            // [rows, hidden]
@group(0) @binding(2) var<storage, read> ordering: array<f32>;     // [vocab]
@group(0) @binding(3) var<storage, read> chosen: array<u32>;       // [rows, top_k]
@group(0) @binding(4) var<storage, read_write> found: array<f32>;  // [rows, top_k * each]
@group(1) @binding(0) var<uniform> params: CentroidParams;

// Columns whose products are added up before they join the sum: so its error grows with the logarithm of the columns.
const BLOCK: u32 = 16u;

@compute @workgroup_size(ROW_THREADS)
fn centroid_head(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let count = params.top_k * params.each;
  let i = group.x * ROW_THREADS + lane;
  if i >= count { return; }
  let cluster = chosen[group.y * params.top_k + i / params.each];
  let token = u32(ordering[cluster * params.each + i % params.each]);
  if token < params.first || token - params.first >= params.part_rows { return; }
  let row = (token - params.first) * params.stride;
  let source = group.y * params.hidden;
  var sum = 0.0;
  for (var start = 0u; start < params.hidden; start += BLOCK) {
    var part = 0.0;
    for (var c = start; c < min(start + BLOCK, params.hidden); c++) {
      part = fma(weight_at(row, row + params.tails, c), x[source + c], part);
    }
    sum += part;
  }
  found[group.y * count + i] = sum;
}
