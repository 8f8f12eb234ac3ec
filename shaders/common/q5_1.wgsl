// Weights of Q5_1: `d * q + m`. Body: 32 nibbles; tail: halves `d`, `m`, and a word of fifth bits.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let tail = tails + 2u * (col >> 5u);
  let q = nibble_at(row + 4u * (col >> 5u), col) | fifth_bit_at(tail + 1u, col);
  let scale = unpack2x16float(weight_word(tail));
  return scale.x * f32(q) + scale.y;
}

struct Chunk { low: vec4<u32>, high: u32, scale: vec2<f32> }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let tail = tails + 2u * chunk;
  return Chunk(weight_quad((row >> 2u) + chunk), weight_word(tail + 1u), unpack2x16float(weight_word(tail)));
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  return half_of(nibbles_of(packed.low, h) | fifth_bits(packed.high, h));
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(packed.scale.xx, packed.scale.yy); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = true;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h) | fifth_bits(packed.high, h); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = false;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let s = chunk_scales(packed);
  return Scales(s.scale, fma(s.scale, vec2(-WEIGHT_ZERO), s.shift));
}
