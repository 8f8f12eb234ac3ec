// centroid_head, third part: the logits that were found, and the smallest of them less 1 for every other token.
//
// Spec    core/src/ops/centroid_head.rs
// Launch  x: rows; ROW_THREADS a workgroup

@group(0) @binding(0) var<storage, read> ordering: array<f32>;   // [vocab]
@group(0) @binding(1) var<storage, read> chosen: array<u32>;     // [rows, top_k]
@group(0) @binding(2) var<storage, read> found: array<f32>;      // [rows, top_k * each]
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // [rows, vocab]
@group(1) @binding(0) var<uniform> params: CentroidParams;

var<workgroup> least: array<f32, ROW_THREADS>;

@compute @workgroup_size(ROW_THREADS)
fn centroid_head__fill(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let count = params.top_k * params.each;
  let source = group.x * count;
  var low = found[source];
  for (var i = lane; i < count; i += ROW_THREADS) { low = min(low, found[source + i]); }
  least[lane] = low;
  for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { least[lane] = min(least[lane], least[lane + half]); }
  }
  workgroupBarrier();
  let rest = least[0] - 1.0;
  let to = group.x * params.vocab;
  for (var t = lane; t < params.vocab; t += ROW_THREADS) { out[to + t] = rest; }
  // What was filled is overwritten by other invocations.
  storageBarrier();
  for (var i = lane; i < count; i += ROW_THREADS) {
    let cluster = chosen[group.x * params.top_k + i / params.each];
    out[to + u32(ordering[cluster * params.each + i % params.each])] = found[source + i];
  }
}
