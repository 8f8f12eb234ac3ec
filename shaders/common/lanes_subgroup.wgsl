// Sums over groups of LANES lanes, by exchanges inside subgroups and then over their sums in workgroup memory.

// Invocations of a subgroup.
override SUBGROUP: u32 = 32u;

// How an entry point learns its number in the workgroup: so that a subgroup's numbers follow one another.
struct Lane { @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) invocation: u32 }

fn lane_index(lane: Lane) -> u32 { return lane.subgroup * SUBGROUP + lane.invocation; }

// A place for each subgroup; the smallest subgroups have four invocations.
override LANES_PLACES: u32 = LANES_THREADS / 4u;
var<workgroup> lanes_partial: array<vec4<f32>, LANES_PLACES>;

// The sum of `value` over the group of LANES lanes that `index` is in, valid in the first of them. Has barriers.
fn lanes_sum(value: vec4<f32>, index: u32) -> vec4<f32> {
  var sum = value;
  if SUBGROUP > 64u && LANES > 64u { sum += subgroupShuffleXor(sum, 64u); }
  if SUBGROUP > 32u && LANES > 32u { sum += subgroupShuffleXor(sum, 32u); }
  if SUBGROUP > 16u && LANES > 16u { sum += subgroupShuffleXor(sum, 16u); }
  if SUBGROUP > 8u && LANES > 8u { sum += subgroupShuffleXor(sum, 8u); }
  if SUBGROUP > 4u && LANES > 4u { sum += subgroupShuffleXor(sum, 4u); }
  sum += subgroupShuffleXor(sum, 2u);
  sum += subgroupShuffleXor(sum, 1u);
  if LANES > SUBGROUP {
    workgroupBarrier();
    if (index & (SUBGROUP - 1u)) == 0u { lanes_partial[index / SUBGROUP] = sum; }
    workgroupBarrier();
    let first = (index & ~(LANES - 1u)) / SUBGROUP;
    sum = lanes_partial[first];
    for (var i = 1u; i < LANES / SUBGROUP; i++) { sum += lanes_partial[first + i]; }
  }
  return sum;
}
