// Codes of four bits that stand for numbers of a table. Tables in shaders cost memory accesses that do not coalesce, so
// the numbers are computed.

// IQ4_VALUES[q] of four codes in bytes: the nearest whole number of a polynomial, which is never off by more than 0.44.
fn iq4_values(codes: u32) -> vec4<f32> {
  let q = bytes_of(codes);
  let upper = fma(q, fma(q, vec4(0.0015860428), vec4(0.03108644)), vec4(-1.371927));
  return round(fma(q, fma(q, upper, vec4(24.17383)), vec4(-126.56701)));
}

fn iq4_half(words: vec4<u32>) -> Half {
  return Half(iq4_values(words.x), iq4_values(words.y), iq4_values(words.z), iq4_values(words.w));
}

// MXFP4_VALUES[q] of four codes in bytes: a code's lower bits are those of a half's exponent and fraction.
fn mxfp4_values(codes: u32) -> vec4<f32> {
  let even = unpack2x16float(((codes & 0x00070007u) << 9u) | ((codes & 0x00080008u) << 12u));
  let odd = unpack2x16float(((codes & 0x07000700u) << 1u) | ((codes & 0x08000800u) << 4u));
  return 32768.0 * vec4(even.x, odd.x, even.y, odd.y);
}

// 2^(e - 128). Below 2^-126 it is subnormal: single bits of the fraction.
fn mxfp4_scale(e: u32) -> f32 {
  return bitcast<f32>(select((e - 1u) << 23u, 1u << (21u + e), e < 2u));
}
