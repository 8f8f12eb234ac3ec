// centroid_head, first part: the top_k clusters of a row, the largest score first, of equal ones the lower cluster.
//
// Spec    core/src/ops/centroid_head.rs
// Launch  x: rows; ROW_THREADS a workgroup

@group(0) @binding(0) var<storage, read> scores: array<f32>;        // [rows, clusters]
@group(0) @binding(1) var<storage, read_write> chosen: array<u32>;  // [rows, top_k]
@group(1) @binding(0) var<uniform> params: CentroidParams;

var<workgroup> best_score: array<f32, ROW_THREADS>;
var<workgroup> best_cluster: array<u32, ROW_THREADS>;

const NOTHING: u32 = 0xffffffffu;

// Whether a cluster comes before another.
fn before(score: f32, cluster: u32, other: f32, other_cluster: u32) -> bool {
  return other_cluster == NOTHING || score > other || (score == other && cluster < other_cluster);
}

@compute @workgroup_size(ROW_THREADS)
fn centroid_head__choose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var last_score = 0.0;
  var last = NOTHING;
  for (var i = 0u; i < params.top_k; i++) {
    var top = 0.0;
    var cluster = NOTHING;
    for (var c = lane; c < params.clusters; c += ROW_THREADS) {
      let score = scores[group.x * params.clusters + c];
      // What was chosen already, and what comes before it, is not chosen again.
      let left = last == NOTHING || (c != last && before(last_score, last, score, c));
      if left && before(score, c, top, cluster) {
        top = score;
        cluster = c;
      }
    }
    workgroupBarrier();
    best_score[lane] = top;
    best_cluster[lane] = cluster;
    for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
      workgroupBarrier();
      if lane < half && best_cluster[lane + half] != NOTHING
          && before(best_score[lane + half], best_cluster[lane + half], best_score[lane], best_cluster[lane]) {
        best_score[lane] = best_score[lane + half];
        best_cluster[lane] = best_cluster[lane + half];
      }
    }
    workgroupBarrier();
    last_score = best_score[0];
    last = best_cluster[0];
    if lane == 0u { chosen[group.x * params.top_k + i] = last; }
  }
}
