// Weights of IQ4_NL: `d * IQ4_VALUES[q]`. Body: 32 nibbles; tail: half `d`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  return weight_half(tails, col >> 5u) * iq4_values(nibble_at(row + 4u * (col >> 5u), col)).x;
}

struct Chunk { low: vec4<u32>, scale: f32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(weight_quad((row >> 2u) + chunk), weight_half(tails, chunk));
}

fn chunk_half(packed: Chunk, h: u32) -> Half { return iq4_half(nibbles_of(packed.low, h)); }

fn chunk_scales(packed: Chunk) -> Scales { return Scales(vec2(packed.scale), vec2(0.0)); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = false;
