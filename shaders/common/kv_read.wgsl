// Reading keys and values: eight consecutive values of a stored head at once, in the domain they are stored in.
//
// Rows are as backend-wgpu/src/state.rs lays them out. The kinds are constants, so every branch below but one goes.

override K_KIND: u32 = 0u;
override V_KIND: u32 = 0u;
override DIM: u32 = 32u;  // values of a head

@group(0) @binding(1) var<storage, read> k: array<vec4<u32>>;  // [pages, kv_heads, PAGE, k_stride]
@group(0) @binding(2) var<storage, read> v: array<vec4<u32>>;  // [pages, kv_heads, PAGE, v_stride]

struct Eight { a: vec4<f32>, b: vec4<f32> }

// Four bytes of `w` less `offset`: or'ed into the mantissa of 2^23, which is exact and needs no conversion.
fn four(w: u32, offset: f32) -> vec4<f32> {
  let bytes = vec4<u32>(w & 255u, (w >> 8u) & 255u, (w >> 16u) & 255u, w >> 24u);
  return bitcast<vec4<f32>>(bytes | vec4<u32>(0x4b000000u)) - vec4<f32>(8388608.0 + offset);
}

fn eight_floats(x: vec4<u32>, y: vec4<u32>) -> Eight {
  return Eight(bitcast<vec4<f32>>(x), bitcast<vec4<f32>>(y));
}

fn eight_halves(x: vec4<u32>) -> Eight {
  return Eight(vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y)),
               vec4<f32>(unpack2x16float(x.z), unpack2x16float(x.w)));
}

// Chunk `c` of a row of q8_0: half of the 16 codes of `x`.
fn eight_q8(x: vec4<u32>, scales: u32, c: u32) -> Eight {
  let w = select(x.xy, x.zw, (c & 1u) == 1u) ^ vec2<u32>(0x80808080u);
  let d = unpack2x16float(scales >> (16u * ((c >> 2u) & 1u))).x;
  return Eight(four(w.x, 128.0) * d, four(w.y, 128.0) * d);
}

// Chunk `c` of a row of q4_0: a quarter of the block of `x`, whose upper half is in the high nibbles.
fn eight_q4(x: vec4<u32>, scales: u32, c: u32) -> Eight {
  let w = (select(x.xy, x.zw, (c & 1u) == 1u) >> vec2<u32>(2u * (c & 2u))) & vec2<u32>(0x0f0f0f0fu);
  let d = unpack2x16float(scales >> (16u * ((c >> 2u) & 1u))).x;
  return Eight(four(w.x, 8.0) * d, four(w.y, 8.0) * d);
}

// Four centroids by their indices' bits 1..0, from bit `2 * i` on, and bit 2.
fn centroids(low: u32, high: u32) -> vec4<f32> {
  let up = (vec4<u32>(high) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u);
  // Below zero the order is reversed.
  let m = (vec4<u32>(low) >> vec4<u32>(0u, 2u, 4u, 6u)) ^ select(vec4<u32>(3u), vec4<u32>(0u), up);
  let odd = (m & vec4<u32>(1u)) != vec4<u32>(0u);
  let small = select(vec4<f32>(TQ3_CENTROIDS[4]), vec4<f32>(TQ3_CENTROIDS[5]), odd);
  let large = select(vec4<f32>(TQ3_CENTROIDS[6]), vec4<f32>(TQ3_CENTROIDS[7]), odd);
  let size = select(small, large, (m & vec4<u32>(2u)) != vec4<u32>(0u));
  return select(-size, size, up);
}

// Chunk `c` of a row of tq3_0 from the words of its low bits, its high bits and its norm.
fn eight_tq3(low: u32, high: u32, norm: u32, c: u32) -> Eight {
  let l = low >> (16u * (c & 1u));
  let h = high >> (8u * (c & 3u));
  let d = unpack2x16float(norm).x;
  return Eight(centroids(l, h) * d, centroids(l >> 8u, h >> 4u) * d);
}

// Word of the scale or norm of chunk `c`.
fn scale_at(kind: u32, c: u32) -> u32 {
  if kind == KV_Q8_0 { return DIM / 4u + (c >> 3u); }
  if kind == KV_Q4_0 { return DIM / 8u + (c >> 3u); }
  return DIM / 16u + DIM / 32u + 2u * (c >> 4u);
}

fn k_word(row: u32, w: u32) -> u32 { return k[row + (w >> 2u)][w & 3u]; }
fn v_word(row: u32, w: u32) -> u32 { return v[row + (w >> 2u)][w & 3u]; }

// Values 8 * c to 8 * c + 7 of the key that starts at `row`, in units of 16 bytes.
fn k_eight(row: u32, c: u32) -> Eight {
  if K_KIND == KV_F32 { return eight_floats(k[row + 2u * c], k[row + 2u * c + 1u]); }
  if K_KIND == KV_F16 { return eight_halves(k[row + c]); }
  if K_KIND == KV_Q8_0 { return eight_q8(k[row + (c >> 1u)], k_word(row, scale_at(K_KIND, c)), c); }
  if K_KIND == KV_Q4_0 { return eight_q4(k[row + (c >> 2u)], k_word(row, scale_at(K_KIND, c)), c); }
  return eight_tq3(k_word(row, c >> 1u), k_word(row, DIM / 16u + (c >> 2u)), k_word(row, scale_at(K_KIND, c)), c);
}

// The same of a value.
fn v_eight(row: u32, c: u32) -> Eight {
  if V_KIND == KV_F32 { return eight_floats(v[row + 2u * c], v[row + 2u * c + 1u]); }
  if V_KIND == KV_F16 { return eight_halves(v[row + c]); }
  if V_KIND == KV_Q8_0 { return eight_q8(v[row + (c >> 1u)], v_word(row, scale_at(V_KIND, c)), c); }
  if V_KIND == KV_Q4_0 { return eight_q4(v[row + (c >> 2u)], v_word(row, scale_at(V_KIND, c)), c); }
  return eight_tq3(v_word(row, c >> 1u), v_word(row, DIM / 16u + (c >> 2u)), v_word(row, scale_at(V_KIND, c)), c);
}
