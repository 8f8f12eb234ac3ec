// Weights of Q5_0: `d * (q - 16)`. Body: 32 nibbles; tails: a plane of words with the fifth bits, and behind it a plane
// of halves `d`.

// Where the plane of halves is: a block has four words of body and one of fifth bits.
fn q5_0_scales(row: u32, tails: u32) -> u32 { return tails + ((tails - row) >> 2u); }

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let q = nibble_at(row + 4u * (col >> 5u), col) | fifth_bit_at(tails + (col >> 5u), col);
  return weight_half(q5_0_scales(row, tails), col >> 5u) * (f32(q) - 16.0);
}

struct Chunk { low: vec4<u32>, high: u32, scale: f32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let scale = weight_half(q5_0_scales(row, tails), chunk);
  return Chunk(weight_quad((row >> 2u) + chunk), weight_word(tails + chunk), scale);
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  return half_of(nibbles_of(packed.low, h) | fifth_bits(packed.high, h));
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(vec2(packed.scale), vec2(0.0)); }

const WEIGHT_ZERO = 16.0;
const WEIGHT_SHIFTS = false;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h) | fifth_bits(packed.high, h); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = false;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let s = chunk_scales(packed);
  return Scales(s.scale, fma(s.scale, vec2(-WEIGHT_ZERO), s.shift));
}
