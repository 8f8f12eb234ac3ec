// attention, decode class: logits added up among the lanes of a subgroup. See attention.wgsl.

// Of two heads, the one that bit `bit` of the lane chooses, added up over the two lanes that differ in that bit.
fn halve(a: vec4<f32>, b: vec4<f32>, lane: u32, bit: u32) -> vec4<f32> {
  let up = (lane & bit) != 0u;
  return select(a, b, up) + subgroupShuffleXor(select(b, a, up), bit);
}

// Every lane ends up with one head, number `lane % HEADS`, of which it then adds up the rest.
fn add_up(s: Logits, quad: u32, lane: u32, index: u32) {
  var x = s.h0;
  if HEADS == 2u { x = halve(s.h0, s.h1, lane, 1u); }
  if HEADS == 4u { x = halve(halve(s.h0, s.h1, lane, 1u), halve(s.h2, s.h3, lane, 1u), lane, 2u); }
  if HEADS == 8u {
    let low = halve(halve(s.h0, s.h1, lane, 1u), halve(s.h2, s.h3, lane, 1u), lane, 2u);
    let high = halve(halve(s.h4, s.h5, lane, 1u), halve(s.h6, s.h7, lane, 1u), lane, 2u);
    x = halve(low, high, lane, 4u);
  }
  if HEADS <= 1u && LANES > 1u { x += subgroupShuffleXor(x, 1u); }
  if HEADS <= 2u && LANES > 2u { x += subgroupShuffleXor(x, 2u); }
  if HEADS <= 4u && LANES > 4u { x += subgroupShuffleXor(x, 4u); }
  if LANES > 8u { x += subgroupShuffleXor(x, 8u); }
  if lane < HEADS && quad < QUADS { scores[lane * QUADS + quad] = x; }
}

@compute @workgroup_size(ROW_THREADS)
fn attention__split_subgroups(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) invocation: u32,
) {
  split_of_row(workgroup, subgroup * size + invocation);
}
