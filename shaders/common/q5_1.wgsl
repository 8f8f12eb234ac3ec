// Weights of Q5_1: `d * q + m`. Body: 32 nibbles, the low ones first; tail: halves `d`, `m`, and a word of fifth bits.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let word = weight_word(row + 4u * (col >> 5u) + ((col >> 2u) & 3u));
  let tail = tails + 2u * (col >> 5u);
  let high = weight_word(tail + 1u) >> (col & 31u);
  let q = bits(word, 8u * (col & 3u) + 4u * ((col >> 4u) & 1u), 15u) + bits(high << 4u, 0u, 16u);
  let scale = unpack2x16float(weight_word(tail));
  return scale.x * q + scale.y;
}
