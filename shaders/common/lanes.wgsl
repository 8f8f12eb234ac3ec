// Sums over groups of LANES lanes, on core features: a tree in workgroup memory.

// How an entry point learns its number in the workgroup.
struct Lane { @builtin(local_invocation_index) index: u32 }

fn lane_index(lane: Lane) -> u32 { return lane.index; }

var<workgroup> lanes_partial: array<vec4<f32>, LANES_THREADS>;

// The sum of `value` over the group of LANES lanes that `index` is in, valid in the first of them. Has barriers.
fn lanes_sum(value: vec4<f32>, index: u32) -> vec4<f32> {
  workgroupBarrier();
  lanes_partial[index] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (index & (LANES - 1u)) < half { lanes_partial[index] += lanes_partial[index + half]; }
  }
  return lanes_partial[index];
}
