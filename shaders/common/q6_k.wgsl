// Weights of Q6_K: `d * s * (q - 32)`, with `s` for each 16 values. Body: 32 nibbles for each 32 values; two words of
// upper bits for each 32 values; 16 signed bytes `s`. Tail: half `d`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 52u * (col >> 8u);
  let group = (col >> 5u) & 7u;
  let q = nibble_at(block + 4u * group, col) | (pair_at(block + 32u + 2u * group, col) << 4u);
  let s = bitcast<i32>(weight_byte(block + 48u, group_of(col)) << 24u) >> 24u;
  return weight_half(tails, col >> 8u) * f32(s) * (f32(q) - 32.0);
}

struct Chunk { low: vec4<u32>, high: vec2<u32>, scale: vec2<f32> }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let block = (row >> 2u) + 13u * (chunk >> 3u);
  let group = chunk & 7u;
  let high = two_of(weight_quad(block + 8u + (group >> 1u)), (group & 1u) == 1u);
  let s = bitcast<i32>(weight_word(4u * block + 48u + (group >> 1u)) << (16u - 16u * (group & 1u)));
  let scale = weight_half(tails, chunk >> 3u) * vec2<f32>(vec2((s << 8u) >> 24u, s >> 24u));
  return Chunk(weight_quad(block + group), high, scale);
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  return half_of(nibbles_of(packed.low, h) | (pairs_of(packed.high, h) << vec4(4u)));
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(packed.scale, vec2(0.0)); }

const WEIGHT_ZERO = 32.0;
const WEIGHT_SHIFTS = false;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h) | (pairs_of(packed.high, h) << vec4(4u)); }
