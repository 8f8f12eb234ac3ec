// Arithmetic that rounds as IEEE 754 says, where WGSL promises less: stored bytes must not depend on the device.

// What is left of `a` after `b` was taken `q` times: in parts whose products are exact, for WGSL's fma need not be.
fn remainder(a: f32, q: f32, b: f32) -> f32 {
  let qh = bitcast<f32>(bitcast<u32>(q) & 0xfffff000u);
  let bh = bitcast<f32>(bitcast<u32>(b) & 0xfffff000u);
  let ql = q - qh;
  let bl = b - bh;
  return (((a - qh * bh) - qh * bl) - ql * bh) - ql * bl;
}

// a / b. The remainder of the device's quotient corrects its last bits.
fn divide(a: f32, b: f32) -> f32 {
  let q = a / b;
  let better = q + remainder(a, q, b) / b;
  return select(q, better, abs(better) < 3.0e38 && abs(q) > 1.0e-25 && abs(a) > 1.0e-25);
}

// sqrt(x), likewise.
fn square_root(x: f32) -> f32 {
  let s = sqrt(x);
  return select(s, s + remainder(x, s, s) * (0.5 / s), x > 1.0e-25 && x < 3.0e38);
}

// Bits of the f16 nearest to x, ties to even, saturating at the largest.
fn half_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let size = bits & 0x7fffffffu;
  if size > 0x7f800000u { return sign | 0x7e00u; }
  // 65504, then 2^-14, in bits.
  let most = min(size, 0x477fe000u);
  let normal = (most + 0xfffu + ((most >> 13u) & 1u) - 0x38000000u) >> 13u;
  let small = u32(round(bitcast<f32>(most) * 16777216.0));
  return sign | select(small, normal, most >= 0x38800000u);
}
