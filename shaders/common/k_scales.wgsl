// The scales of Q4_K and Q5_K, which have the same.

// Scale and min of group `g` of a block, from its first words.
fn k_scale_min(head: vec4<u32>, g: u32) -> vec2<f32> { return k_scale_min_small(head, g) * SMALL; }

// The same over SMALL.
fn k_scale_min_small(head: vec4<u32>, g: u32) -> vec2<f32> {
  let at = vec2(8u * (g & 3u));
  let low = head.yz >> at;
  let high = vec2(head.w, head.w >> 4u) >> at;
  let late = (high & vec2(15u)) | ((low >> vec2(2u)) & vec2(48u));
  let codes = select(late, low & vec2(63u), g < 4u);
  return unpack2x16float(head.x) * vec2(small(codes.x), small(codes.y));
}
