// Codes of four bits that stand for numbers of a table.

fn iq4_value(q: u32) -> f32 { return f32(IQ4_VALUES[q]); }

fn mxfp4_value(q: u32) -> f32 { return f32(MXFP4_VALUES[q]); }

// 2^(e - 128). Below 2^-126 it is subnormal: single bits of the fraction.
fn mxfp4_scale(e: u32) -> f32 {
  return bitcast<f32>(select((e - 1u) << 23u, 1u << (21u + e), e < 2u));
}
