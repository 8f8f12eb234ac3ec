// Weights of Q8_0: `d * q`. Body: 32 signed bytes; tail: half `d`.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let word = weight_word(row + (col >> 2u));
  let q = f32(bitcast<i32>(word << (24u - 8u * (col & 3u))) >> 24u);
  return weight_half(tails, col >> 5u) * q;
}
