// Sums over the invocations of a workgroup: within subgroups by the hardware, then over subgroups.

// Invocations of a subgroup.
override SUBGROUP: u32;

// Invocations of a workgroup: whole subgroups.
override REDUCE_THREADS: u32 = ROW_THREADS;

// An entry point takes this as an argument and has its number in the workgroup from `lane_of`.
struct Lane {
  @builtin(subgroup_id) group: u32,
  @builtin(subgroup_invocation_id) invocation: u32,
}
fn lane_of(lane: Lane) -> u32 { return lane.group * SUBGROUP + lane.invocation; }

// A subgroup has at least four invocations.
override REDUCE_PLACES: u32 = REDUCE_THREADS / 4u;
var<workgroup> reduce_partial: array<f32, REDUCE_PLACES>;

// The sum of all `value`s, in every invocation. May be called again.
fn workgroup_sum(value: f32, lane: u32) -> f32 {
  let mine = subgroupAdd(value);
  workgroupBarrier();
  if lane % SUBGROUP == 0u { reduce_partial[lane / SUBGROUP] = mine; }
  workgroupBarrier();
  let count = REDUCE_THREADS / SUBGROUP;
  if count <= SUBGROUP {
    let own = lane % SUBGROUP;
    return subgroupAdd(select(0.0, reduce_partial[min(own, count - 1u)], own < count));
  }
  var sum = 0.0;
  for (var i = 0u; i < count; i++) { sum += reduce_partial[i]; }
  return sum;
}
