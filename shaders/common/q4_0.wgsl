// Weights of Q4_0: `d * (q - 8)`. Body: 32 nibbles; tail: half `d`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  return weight_half(tails, col >> 5u) * (f32(nibble_at(row + 4u * (col >> 5u), col)) - 8.0);
}

struct Chunk { low: vec4<u32>, scale: f32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(weight_quad((row >> 2u) + chunk), weight_half(tails, chunk));
}

fn chunk_half(packed: Chunk, h: u32) -> Half { return small_half(nibbles_of(packed.low, h), 0x00ff00ffu); }

fn chunk_scales(packed: Chunk) -> Scales { return Scales(vec2(packed.scale * SMALL), vec2(0.0)); }

const WEIGHT_ZERO = 8.0 / SMALL;
const WEIGHT_SHIFTS = false;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = false;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  return Scales(vec2(packed.scale), vec2(-8.0 * packed.scale));
}
