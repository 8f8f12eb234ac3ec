// Parts of words, for the decoders of weights. The op says by `weight_quad` where quads of words come from.

fn weight_word(i: u32) -> u32 { return weight_quad(i >> 2u)[i & 3u]; }

// Byte `i` of those that start at a word.
fn weight_byte(word: u32, i: u32) -> u32 { return (weight_word(word + (i >> 2u)) >> (8u * (i & 3u))) & 255u; }

// Number `i` of the halves that start at a word.
fn weight_half(word: u32, i: u32) -> f32 {
  return unpack2x16float(weight_word(word + (i >> 1u)) >> (16u * (i & 1u))).x;
}

// Bits `at` and up of a word, cut by `mask`, as a number.
fn bits(word: u32, at: u32, mask: u32) -> f32 { return f32((word >> at) & mask); }
