// Sums over the invocations of a workgroup, by a tree: one order for every device.

// Invocations of a workgroup.
const REDUCE_THREADS = ROW_THREADS;

// An entry point takes this as an argument and has its number in the workgroup from `lane_of`.
struct Lane {
  @builtin(local_invocation_index) index: u32,
}
fn lane_of(lane: Lane) -> u32 { return lane.index; }

var<workgroup> reduce_partial: array<f32, REDUCE_THREADS>;

// The sum of all `value`s, in every invocation. May be called again.
fn workgroup_sum(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  reduce_partial[lane] = value;
  for (var half = REDUCE_THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { reduce_partial[lane] += reduce_partial[lane + half]; }
  }
  workgroupBarrier();
  return reduce_partial[0];
}
