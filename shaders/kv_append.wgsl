// kv_append: keys and values of rows that ask nothing go to the cache, as attn_prepare.wgsl makes and stores them.
//
// Spec    core/src/ops/kv_append.rs
// Launch  x: key heads, then value heads, y: rows; ROW_THREADS a workgroup. params.heads is 0.

@compute @workgroup_size(ROW_THREADS)
fn kv_append(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if group.x >= params.kv_heads {
    let head = group.x - params.kv_heads;
    norm_value(load_head(head_start(group.y, params.value_start, head), lane), lane);
    store_value(row_of(group.y, head), lane);
    return;
  }
  norm_head(load_head(head_start(group.y, 0u, group.x), lane), lane);
  rope(rows[group.y].position, lane);
  store_key(row_of(group.y, group.x), lane);
}
