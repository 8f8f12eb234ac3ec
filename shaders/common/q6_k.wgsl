// Weights of Q6_K: `d * s * (q - 32)`, with `s` for each 16 values. Body: for each 128 values 64 bytes of lower bits, whose
// low nibbles come first; for each 128 values 32 bytes of upper bits, value 32 i + l at bits 2 i of byte l; 16 signed
// bytes of scales. Tail: half `d`.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 52u * (col >> 8u);
  let half = (col >> 7u) & 1u;
  let low = (weight_byte(block + 16u * half, col & 63u) >> (4u * ((col >> 6u) & 1u))) & 15u;
  let high = (weight_byte(block + 32u + 8u * half, col & 31u) >> (2u * ((col >> 5u) & 3u))) & 3u;
  let s = bitcast<i32>(weight_byte(block + 48u, (col >> 4u) & 15u) << 24u) >> 24u;
  return weight_half(tails, col >> 8u) * f32(s) * (f32(low | (high << 4u)) - 32.0);
}
