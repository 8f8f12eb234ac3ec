// attention, around it: heads into the domain of a rotated pool, and sums of values back from it.
//   rotate    out[r, h] = R x[r, h]
//   unrotate  x[r, h] = R^-1 x[r, h]
//
// Spec    core/src/ops/attention.rs, core/src/kv_type/tq3.rs
// Launch  x: query heads, y: rows; ROW_THREADS a workgroup

const HEAD_MAX: u32 = 512u;

override DIM: u32 = 128u;  // values of a head

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, heads, DIM]
@group(0) @binding(1) var<storage, read_write> out: array<f32>;   // [rows, heads, DIM]
@group(0) @binding(0) var<storage, read_write> sums: array<f32>;  // [rows, heads, DIM]
@group(1) @binding(0) var<uniform> params: AttentionParams;

var<workgroup> head_values: array<f32, HEAD_MAX>;

@compute @workgroup_size(ROW_THREADS)
fn attention__rotate(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = (group.y * params.heads + group.x) * DIM;
  for (var i = lane; i < DIM; i += ROW_THREADS) { head_values[i] = x[head + i]; }
  rotate_groups(DIM, lane, false);
  for (var i = lane; i < DIM; i += ROW_THREADS) { out[head + i] = head_values[i]; }
}

@compute @workgroup_size(ROW_THREADS)
fn attention__unrotate(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = (group.y * params.heads + group.x) * DIM;
  for (var i = lane; i < DIM; i += ROW_THREADS) { head_values[i] = sums[head + i]; }
  rotate_groups(DIM, lane, true);
  for (var i = lane; i < DIM; i += ROW_THREADS) { sums[head + i] = head_values[i]; }
}
