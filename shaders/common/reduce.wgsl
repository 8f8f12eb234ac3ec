// Sums over the ROW_THREADS invocations of a workgroup, by a tree: one order for every device.

var<workgroup> reduce_partial: array<f32, ROW_THREADS>;

// The sum of all `value`s, in every invocation. Ends with a barrier, so it may be called again.
fn workgroup_sum(value: f32, lane: u32) -> f32 {
  reduce_partial[lane] = value;
  for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { reduce_partial[lane] += reduce_partial[lane + half]; }
  }
  workgroupBarrier();
  let sum = reduce_partial[0];
  workgroupBarrier();
  return sum;
}
