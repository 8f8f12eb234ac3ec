// Weights of Q5_K: `d * s * q - dmin * m`, with `s` and `m` for each 32 values. Block: halves `d` and `dmin`, twelve bytes
// of scales and mins, a word of fifth bits for each 32 values, 32 nibbles for each 32 values.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 44u * (col >> 8u);
  let group = (col >> 5u) & 7u;
  let scale = k_scale_min(weight_quad(block >> 2u), group);
  let q = nibble_at(block + 12u + 4u * group, col) | fifth_bit_at(block + 4u + group, col);
  return scale.x * f32(q) - scale.y;
}

struct Chunk { low: vec4<u32>, high: u32, scale: vec2<f32> }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let block = (row >> 2u) + 11u * (chunk >> 3u);
  let group = chunk & 7u;
  let scale = k_scale_min_small(weight_quad(block), group);
  return Chunk(weight_quad(block + 3u + group), weight_word(4u * block + 4u + group), scale);
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  return small_half(nibbles_of(packed.low, h) | fifth_bits(packed.high, h), 0x00ff00ffu);
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(packed.scale.xx * (SMALL * SMALL), packed.scale.yy * -SMALL); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = true;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h) | fifth_bits(packed.high, h); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = false;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  return Scales(packed.scale.xx * SMALL, packed.scale.yy * -SMALL);
}
