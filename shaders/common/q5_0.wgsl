// Weights of Q5_0: `d * (q - 16)`. Body: 32 nibbles, the low ones first; tails: a plane of words with the fifth bits,
// and behind it a plane of halves `d`.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let word = weight_word(row + 4u * (col >> 5u) + ((col >> 2u) & 3u));
  let high = weight_word(tails + (col >> 5u)) >> (col & 31u);
  let q = bits(word, 8u * (col & 3u) + 4u * ((col >> 4u) & 1u), 15u) + bits(high << 4u, 0u, 16u);
  // A block has four words of body, so this is the number of blocks.
  let blocks = (tails - row) >> 2u;
  return weight_half(tails + blocks, col >> 5u) * (q - 16.0);
}
