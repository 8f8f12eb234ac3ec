// Weights of MXFP4: `2^(e - 128) * MXFP4_VALUES[q]`. Body: 32 nibbles; tail: byte `e`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  return mxfp4_scale(weight_byte(tails, col >> 5u)) * mxfp4_values(nibble_at(row + 4u * (col >> 5u), col)).x;
}

struct Chunk { low: vec4<u32>, scale: f32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(weight_quad((row >> 2u) + chunk), mxfp4_scale(weight_byte(tails, chunk)));
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  let words = nibbles_of(packed.low, h);
  return Half(mxfp4_values(words.x), mxfp4_values(words.y), mxfp4_values(words.z), mxfp4_values(words.w));
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(vec2(packed.scale), vec2(0.0)); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = false;
