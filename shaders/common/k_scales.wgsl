// The scales of Q4_K and Q5_K, which have the same: backend-wgpu/src/weights/arrange.rs tells where they are.

// Scale and min of group `g` of a block, from its first words.
fn k_scale_min(head: vec4<u32>, g: u32) -> vec2<f32> { return k_scale_min_small(head, g) * SMALL; }

// The same over SMALL.
fn k_scale_min_small(head: vec4<u32>, g: u32) -> vec2<f32> {
  // All that depends on the group alone is the same in every turn of a loop that keeps to one group.
  let late = g >= 6u;
  let words = select(select(head.y, head.z, (g >> 1u) == 1u), head.w, (g >> 1u) == 2u || g == 7u);
  let codes = (words >> select(6u * (g & 1u), 12u, late)) & select(0x003f003fu, 0x000f000fu, late);
  let upper = (head.z >> (8u + 2u * (g & 1u))) & select(0u, 0x00300030u, late);
  return unpack2x16float(head.x) * small_pair(codes | upper);
}
