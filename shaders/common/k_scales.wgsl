// The scales of Q4_K and Q5_K, which have the same.

// Scale and min of group `g` of a block of Q4_K or Q5_K, from its first words.
fn k_scale_min(head: vec4<u32>, g: u32) -> vec2<f32> {
  let at = 8u * (g & 3u);
  let low = vec2(head.y, head.z) >> vec2(at);
  let high = vec2(head.w, head.w >> 4u) >> vec2(at);
  let early = low & vec2(63u);
  let late = (high & vec2(15u)) | ((low >> vec2(2u)) & vec2(48u));
  return unpack2x16float(head.x) * vec2<f32>(select(late, early, g < 4u));
}
