// keep_rows: ring[slot[r], position[r] mod rows, column + c] = x[r, c]
//
// Spec    core/src/ops/keep_rows.rs
// Launch  x: workgroups of 4 * ROW_THREADS columns; y: rows
// A row that a later one of its slot would overwrite is left out, so no two workgroups write to one place.

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, cols]
@group(0) @binding(1) var<storage, read> rows: array<RowInfo>;    // [rows]
@group(0) @binding(2) var<storage, read> picked: array<u32>;      // [picked]
@group(0) @binding(3) var<storage, read_write> ring: array<f32>;  // [slots, params.rows, stride]
@group(1) @binding(0) var<uniform> params: RingParams;

@compute @workgroup_size(ROW_THREADS)
fn keep_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var row = group.y;
  if params.picked != 0u { row = picked[group.y]; }
  let info = rows[row];
  if info.flags >> 8u >= params.rows { return; }
  let to = (info.slot * params.rows + info.position % params.rows) * params.stride + params.column;
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.cols);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    ring[to + c] = x[group.y * params.cols + c];
  }
}
