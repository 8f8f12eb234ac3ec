// Weights of BF16, the upper half of F32: two values a word.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  return bitcast<f32>((weight_word(row + (col >> 1u)) >> (16u * (col & 1u))) << 16u);
}
