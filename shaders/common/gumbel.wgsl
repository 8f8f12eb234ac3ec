// Gumbel noise of a token at a position: the bits of core/src/sample.rs, the logarithms in f32.
//
// WGSL promises an absolute 2^-21 for its own log near 1, where the noise that wins is made; this one errs by some
// 2^-22 of the result there and everywhere.

// The product of two words: low and high half.
fn mul_wide(a: u32, b: u32) -> vec2<u32> {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let cross0 = (a & 0xffffu) * (b >> 16u);
  let cross1 = (a >> 16u) * (b & 0xffffu);
  let middle = (low >> 16u) + (cross0 & 0xffffu) + (cross1 & 0xffffu);
  return vec2(a * b, (a >> 16u) * (b >> 16u) + (cross0 >> 16u) + (cross1 >> 16u) + (middle >> 16u));
}

// Philox4x32-10.
fn philox(start: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
  var counter = start;
  var key = seed;
  for (var i = 0u; i < 10u; i++) {
    let a = mul_wide(0xD2511F53u, counter.x);
    let b = mul_wide(0xCD9E8D57u, counter.z);
    counter = vec4(b.y ^ counter.y ^ key.x, b.x, a.y ^ counter.w ^ key.y, a.x);
    key += vec2(0x9E3779B9u, 0xBB67AE85u);
  }
  return counter;
}

// exponent * ln 2 + ln(1 + f), for f from sqrt(1/2) - 1 to sqrt(2) - 1.
fn log_parts(exponent: i32, f: f32) -> f32 {
  let s = f / (2.0 + f);
  let z = s * s;
  let series = fma(z, fma(z, fma(z, fma(z, fma(z, 0.18181818, 0.22222222), 0.2857143), 0.4), 0.6666667), 2.0);
  // ln 2 in two parts; the first times an exponent is exact.
  let e = f32(exponent);
  return fma(e, 0.693145751953125, fma(e, 1.4286068e-6, s * series));
}

// ln(x) for a normal x > 0.
fn log_of(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  // From 1 to 2, exactly; halved above sqrt 2.
  let m = bitcast<f32>((bits & 0x7fffffu) | 0x3f800000u);
  let exponent = i32(bits >> 23u) - 127;
  if m > 1.4142135 { return log_parts(exponent + 1, fma(m, 0.5, -1.0)); }
  return log_parts(exponent, m - 1.0);
}

// -ln(-ln(u)) with u = (2 * (word >> 8) + 1) / 2^25, which an f32 above 1/2 does not hold: 1 - u it does.
fn gumbel(seed: vec2<u32>, position: u32, token: u32) -> f32 {
  let words = philox(vec4(token >> 2u, position, 0u, 0u), seed);
  let n = 2u * (words[token & 3u] >> 8u) + 1u;
  let bit = firstLeadingBit(n);
  let whole = 1u << bit;
  var f = f32(n - whole) / f32(whole);
  var exponent = i32(bit) - 25;
  if f > 0.41421357 {
    f = f32(2u * whole - n) / f32(2u * whole) * -1.0;
    exponent += 1;
  }
  return -log_of(-log_parts(exponent, f));
}
