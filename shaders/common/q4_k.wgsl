// Weights of Q4_K: `d * s * q - dmin * m`, with `s` and `m` for each 32 values. Block: halves `d` and `dmin`, twelve bytes
// of scales and mins, and for each 64 values 32 bytes, whose low nibbles come first.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 36u * (col >> 8u);
  let group = (col >> 5u) & 7u;
  let scale = k_scale_min(weight_quad(block >> 2u), group);
  let q = bits(weight_byte(block + 4u + 8u * (group >> 1u), col & 31u), 4u * (group & 1u), 15u);
  return scale.x * q - scale.y;
}
