// Weights of Q4_1: `d * q + m`. Body: 32 nibbles; tail: halves `d`, `m`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let scale = unpack2x16float(weight_word(tails + (col >> 5u)));
  return scale.x * f32(nibble_at(row + 4u * (col >> 5u), col)) + scale.y;
}

struct Chunk { low: vec4<u32>, scale: vec2<f32> }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(weight_quad((row >> 2u) + chunk), unpack2x16float(weight_word(tails + chunk)));
}

fn chunk_half(packed: Chunk, h: u32) -> Half { return half_of(nibbles_of(packed.low, h)); }

fn chunk_scales(packed: Chunk) -> Scales { return Scales(packed.scale.xx, packed.scale.yy); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = true;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = false;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let s = chunk_scales(packed);
  return Scales(s.scale, fma(s.scale, vec2(-WEIGHT_ZERO), s.shift));
}
