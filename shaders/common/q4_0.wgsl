// Weights of Q4_0: `d * (q - 8)`. Body: 32 nibbles, the low ones first; tail: half `d`.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let word = weight_word(row + 4u * (col >> 5u) + ((col >> 2u) & 3u));
  let q = bits(word, 8u * (col & 3u) + 4u * ((col >> 4u) & 1u), 15u);
  return weight_half(tails, col >> 5u) * (q - 8.0);
}
