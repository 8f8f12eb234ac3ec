// Weights of Q3_K: `d * (s - 32) * (q - 4)`, with `s` for each 16 values. Body: 32 bytes, bit `b` of byte `l` the upper bit
// of value 32 b + l, then for each 128 values 32 bytes: value 32 i + l is bits 2 i of byte l. Tail, of 16 bytes: twelve
// bytes of scales, as core/src/quant/k.rs explains them, and half `d`.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 24u * (col >> 8u);
  let high = weight_byte(block, col & 31u) >> ((col >> 5u) & 7u);
  let low = weight_byte(block + 8u, ((col >> 2u) & 32u) + (col & 31u)) >> (2u * ((col >> 5u) & 3u));
  let tail = weight_quad((tails >> 2u) + (col >> 8u));
  let group = (col >> 4u) & 15u;
  let four = (tail[(group >> 2u) & 1u] >> (4u * (group >> 3u))) & 0x0f0f0f0fu;
  let upper = ((tail.z >> (2u * (group >> 2u))) & 0x03030303u) << 4u;
  let s = bits(four | upper, 8u * (group & 3u), 63u) - 32.0;
  return unpack2x16float(tail.w).x * s * (f32((low & 3u) | ((high & 1u) << 2u)) - 4.0);
}
