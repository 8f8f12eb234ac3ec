// Weights of IQ4_XS: `d * (s - 32) * IQ4_VALUES[q]`, with `s` for each 32 values. Body: for each 32 values 16 bytes, whose
// low nibbles come first. Tail: half `d`, 16 upper bits of the scales, 32 lower ones.

// The value in column `col` of the row that starts at word `row`; `tails` is where its plane of tails is.
fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let group = (col >> 5u) & 7u;
  let word = weight_word(row + 4u * (col >> 5u) + ((col >> 2u) & 3u));
  let q = (word >> (8u * (col & 3u) + 4u * ((col >> 4u) & 1u))) & 15u;
  let tail = tails + 2u * (col >> 8u);
  let head = weight_word(tail);
  let low = (weight_word(tail + 1u) >> (4u * group)) & 15u;
  let high = (head >> (16u + 2u * group)) & 3u;
  let s = f32(low | (high << 4u)) - 32.0;
  return unpack2x16float(head).x * s * iq4_value(q);
}
