// recall_rows: out[r, c] = ring[slot[r], (position[r] - back) mod rows, c]
//
// Spec    core/src/ops/recall_rows.rs
// Launch  x: workgroups of 4 * ROW_THREADS columns; y: rows

@group(0) @binding(0) var<storage, read> ring: array<f32>;       // [slots, params.rows, stride]
@group(0) @binding(1) var<storage, read> rows: array<RowInfo>;   // [rows]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, cols]
@group(1) @binding(0) var<uniform> params: RingParams;

@compute @workgroup_size(ROW_THREADS)
fn recall_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let info = rows[group.y];
  let source = (info.slot * params.rows + (info.position - params.back) % params.rows) * params.stride;
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.cols);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    out[group.y * params.cols + c] = ring[source + c];
  }
}
