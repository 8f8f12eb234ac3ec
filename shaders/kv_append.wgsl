// kv_append: keys and values of rows that ask nothing go to the cache, as attn_prepare.wgsl makes and stores them.
//
// Spec    core/src/ops/kv_append.rs
// Launch  x: key heads, then value heads, y: rows; ROW_THREADS a workgroup. params.heads is 0, `values` is `qkv`.

@compute @workgroup_size(ROW_THREADS)
fn kv_append(@builtin(workgroup_id) group: vec3<u32>, at: Lane) {
  to_cache(group.y, group.x, lane_of(at));
}
