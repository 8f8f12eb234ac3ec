// What decoders are made of. A decoder offers
//
//   weight_at(row, tails, col)             one value, for ops that read few
//   load_chunk(row, tails, chunk, chunks)  32 values of a row of `chunks` times 32, still packed
//   chunk_half(packed, h)                  half of them, 0 or 1, as four quads of numbers without scale
//   chunk_quad(chunk, chunks, i)           where they are: columns 4 * chunk_quad .. + 4 are quad `i & 3` of half `i >> 2`
//   chunk_scales(packed)                   scale and shift of both halves
//
// where value = scale * (number - WEIGHT_ZERO) + shift, without a shift unless WEIGHT_SHIFTS. `row` is the word where the
// row starts, `tails` the word of its planes of tails. Neighbouring lanes that take neighbouring chunks find quad `i` of
// eight of them in different banks of memory: that is why quads are not in the order of columns.

// Sixteen numbers.
struct Half { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// Scale and shift of the halves of a chunk: x the first, y the second.
struct Scales { scale: vec2<f32>, shift: vec2<f32> }

// Byte `i` of those that start at a word.
fn weight_byte(word: u32, i: u32) -> u32 { return (weight_word(word + (i >> 2u)) >> (8u * (i & 3u))) & 255u; }

// Number `i` of the halves that start at a word.
fn weight_half(word: u32, i: u32) -> f32 {
  return unpack2x16float(weight_word(word + (i >> 1u)) >> (16u * (i & 1u))).x;
}

fn bytes_of(word: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(word)); }

// The bytes of four words.
fn half_of(words: vec4<u32>) -> Half {
  return Half(bytes_of(words.x), bytes_of(words.y), bytes_of(words.z), bytes_of(words.w));
}
