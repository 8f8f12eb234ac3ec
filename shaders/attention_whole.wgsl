// attention, decode class, in one dispatch where a row has few splits: the last one to be done of a row and its heads adds
// up all of them, as attention_combine.wgsl does and with its bits. See attention.wgsl and common/arrive.wgsl.
//
// Spec    core/src/ops/attention.rs
// Launch  as attention__split_subgroups; params.first is 0

@group(0) @binding(6) var<storage, read_write> arrived: array<atomic<u32>>;  // [rows, key heads * tiles of heads]
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;        // [rows, heads, DIM]

const_assert COMBINE_STRANDS == 8u;

// Column `column` of all splits, whose partial results start at `here`.
fn sum_of_splits(here: u32, column: u32, count: u32) -> vec4<f32> {
  let each = 1u + DIM / 4u;
  let last = count - 1u;
  let none = Sum(LOWEST, 0.0, vec4<f32>(0.0));
  var t0 = none; var t1 = none; var t2 = none; var t3 = none; var t4 = none; var t5 = none; var t6 = none; var t7 = none;
  for (var i = 0u; i < count; i += COMBINE_STRANDS) {
    let p0 = here + min(i, last) * each;
    let p1 = here + min(i + 1u, last) * each;
    let p2 = here + min(i + 2u, last) * each;
    let p3 = here + min(i + 3u, last) * each;
    let p4 = here + min(i + 4u, last) * each;
    let p5 = here + min(i + 5u, last) * each;
    let p6 = here + min(i + 6u, last) * each;
    let p7 = here + min(i + 7u, last) * each;
    let s0 = partial[p0]; let s1 = partial[p1]; let s2 = partial[p2]; let s3 = partial[p3];
    let s4 = partial[p4]; let s5 = partial[p5]; let s6 = partial[p6]; let s7 = partial[p7];
    let v0 = partial[p0 + 1u + column]; let v1 = partial[p1 + 1u + column];
    let v2 = partial[p2 + 1u + column]; let v3 = partial[p3 + 1u + column];
    let v4 = partial[p4 + 1u + column]; let v5 = partial[p5 + 1u + column];
    let v6 = partial[p6 + 1u + column]; let v7 = partial[p7 + 1u + column];
    t0 = add(t0, s0.xy, v0, true);
    t1 = add(t1, s1.xy, v1, i + 1u < count);
    t2 = add(t2, s2.xy, v2, i + 2u < count);
    t3 = add(t3, s3.xy, v3, i + 3u < count);
    t4 = add(t4, s4.xy, v4, i + 4u < count);
    t5 = add(t5, s5.xy, v5, i + 5u < count);
    t6 = add(t6, s6.xy, v6, i + 6u < count);
    t7 = add(t7, s7.xy, v7, i + 7u < count);
  }
  var sum = t0;
  sum = add(sum, vec2<f32>(t1.top, t1.total), t1.values, t1.total > 0.0);
  sum = add(sum, vec2<f32>(t2.top, t2.total), t2.values, t2.total > 0.0);
  sum = add(sum, vec2<f32>(t3.top, t3.total), t3.values, t3.total > 0.0);
  sum = add(sum, vec2<f32>(t4.top, t4.total), t4.values, t4.total > 0.0);
  sum = add(sum, vec2<f32>(t5.top, t5.total), t5.values, t5.total > 0.0);
  sum = add(sum, vec2<f32>(t6.top, t6.total), t6.values, t6.total > 0.0);
  sum = add(sum, vec2<f32>(t7.top, t7.total), t7.values, t7.total > 0.0);
  return sum.values / sum.total;
}

@compute @workgroup_size(ROW_THREADS)
fn attention__whole(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) invocation: u32,
) {
  let index = subgroup * size + invocation;
  if !split_of_row(workgroup, index) { return; }
  let info = rows[workgroup.x];
  let count = last_seen(info) / SPLIT - first_seen(info) / SPLIT + 1u;
  if count == 1u {
    // Nobody else has anything of this row.
    storageBarrier();
  } else if !arrive(workgroup.x * workgroups.y + workgroup.y, count, index) {
    return;
  }
  let heads = heads_of(workgroup.y);
  let quads = DIM / 4u;
  for (var i = index; i < heads.count * quads; i += ROW_THREADS) {
    let head = workgroup.x * params.heads + heads.first + i / quads;
    out[head * quads + i % quads] = sum_of_splits(head * params.splits * (1u + quads), i % quads, count);
  }
}
