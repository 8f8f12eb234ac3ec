// Sums over the ROW_THREADS invocations of a workgroup: within subgroups by the hardware, then one after another.

// Invocations of a subgroup.
override SUBGROUP: u32;

// An entry point takes this as an argument and has its number in the workgroup from `lane_of`.
struct Lane {
  @builtin(subgroup_id) group: u32,
  @builtin(subgroup_invocation_id) invocation: u32,
}
fn lane_of(lane: Lane) -> u32 { return lane.group * SUBGROUP + lane.invocation; }

// A subgroup has at least four invocations.
var<workgroup> reduce_partial: array<f32, ROW_THREADS / 4u>;

// The sum of all `value`s, in every invocation. May be called again.
fn workgroup_sum(value: f32, lane: u32) -> f32 {
  let mine = subgroupAdd(value);
  workgroupBarrier();
  if lane % SUBGROUP == 0u { reduce_partial[lane / SUBGROUP] = mine; }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < ROW_THREADS / SUBGROUP; i++) { sum += reduce_partial[i]; }
  return sum;
}
