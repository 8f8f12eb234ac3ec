// Weights of MXFP4: `2^(e - 128) * MXFP4_VALUES[q]`. Body: 32 nibbles, the low ones first; tail: byte `e`.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let word = weight_word(row + 4u * (col >> 5u) + ((col >> 2u) & 3u));
  let q = (word >> (8u * (col & 3u) + 4u * ((col >> 4u) & 1u))) & 15u;
  return mxfp4_scale(weight_byte(tails, col >> 5u)) * mxfp4_value(q);
}
