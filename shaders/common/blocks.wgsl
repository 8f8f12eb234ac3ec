// Where the codes of a chunk are in types of blocks: packed as backend-wgpu/src/weights/arrange.rs does.

// The nibbles of a half, in bytes. Low nibbles are the first half.
fn nibbles_of(low: vec4<u32>, h: u32) -> vec4<u32> { return (low >> vec4(4u * h)) & vec4(0x0f0f0f0fu); }

// The fifth bits of a half, at their places in bytes: bit 8 k + i of `high` is that of number k of quad i.
fn fifth_bits(high: u32, h: u32) -> vec4<u32> {
  if h == 0u { return (vec4(high) << vec4(4u, 3u, 2u, 1u)) & vec4(0x10101010u); }
  return (vec4(high) >> vec4(0u, 1u, 2u, 3u)) & vec4(0x10101010u);
}

// The pairs of bits of a half, in bytes: bits 8 k + 2 i of word `h` are those of number k of quad i.
fn pairs_of(pairs: vec2<u32>, h: u32) -> vec4<u32> {
  return (vec4(pairs[h]) >> vec4(0u, 2u, 4u, 6u)) & vec4(0x03030303u);
}

// The nibble of a column in the four words that start at `word`.
fn nibble_at(word: u32, col: u32) -> u32 {
  let quad = quad_of(col);
  return (weight_word(word + (quad & 3u)) >> (8u * (col & 3u) + 4u * (quad >> 2u))) & 15u;
}

// The fifth bit of a column, at its place.
fn fifth_bit_at(word: u32, col: u32) -> u32 {
  return ((weight_word(word) >> (8u * (col & 3u) + quad_of(col))) & 1u) << 4u;
}

// The pair of bits of a column in the two words that start at `word`.
fn pair_at(word: u32, col: u32) -> u32 {
  let quad = quad_of(col);
  return (weight_word(word + (quad >> 2u)) >> (8u * (col & 3u) + 2u * (quad & 3u))) & 3u;
}

// The first or second two words of a quad of words.
fn two_of(words: vec4<u32>, second: bool) -> vec2<u32> { return select(words.xy, words.zw, second); }

// The group of 16 values, counted in its block, whose scale a column has.
fn group_of(col: u32) -> u32 { return 2u * ((col >> 5u) & 7u) + (quad_of(col) >> 2u); }
