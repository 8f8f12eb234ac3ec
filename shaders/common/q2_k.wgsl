// Weights of Q2_K: `d * s * q - dmin * m`, with `s` and `m` for each 16 values. Body: 16 bytes of scales in the low and
// mins in the high nibble, then for each 128 values 32 bytes: value 32 i + l is bits 2 i of byte l. Tail: halves `d`, `dmin`.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 20u * (col >> 8u);
  let scales = weight_byte(block, (col >> 4u) & 15u);
  let q = bits(weight_byte(block + 4u, ((col >> 2u) & 32u) + (col & 31u)), 2u * ((col >> 5u) & 3u), 3u);
  let d = unpack2x16float(weight_word(tails + (col >> 8u)));
  return d.x * bits(scales, 0u, 15u) * q - d.y * bits(scales, 4u, 15u);
}
