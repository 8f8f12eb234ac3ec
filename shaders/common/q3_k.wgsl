// Weights of Q3_K: `d * (s - 32) * (q - 4)`, with `s` for each 16 values. Body: a word of upper bits and then, for all,
// two words of pairs of lower bits for each 32 values. Tail, of 16 bytes: twelve bytes of scales, packed as
// core/src/quant/k.rs tells, and half `d`.

// The scales of groups 2 g and 2 g + 1 of a block.
fn q3_k_scales(tail: vec4<u32>, g: u32) -> vec2<f32> {
  let low = (select(tail.x, tail.y, (g & 2u) != 0u) >> (4u * (g >> 2u))) & 0x0f0f0f0fu;
  let high = ((tail.z >> (2u * (g >> 1u))) & 0x03030303u) << 4u;
  let two = (low | high) >> (16u * (g & 1u));
  return unpack2x16float(tail.w).x * (vec2<f32>(vec2(two & 63u, (two >> 8u) & 63u)) - vec2(32.0));
}

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 24u * (col >> 8u);
  let group = (col >> 5u) & 7u;
  let q = pair_at(block + 8u + 2u * group, col) | (fifth_bit_at(block + group, col) >> 2u);
  let scales = q3_k_scales(weight_quad((tails >> 2u) + (col >> 8u)), group);
  return scales[quad_of(col) >> 2u] * (f32(q) - 4.0);
}

struct Chunk { pairs: vec2<u32>, high: u32, scale: vec2<f32> }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let block = (row >> 2u) + 6u * (chunk >> 3u);
  let group = chunk & 7u;
  let pairs = two_of(weight_quad(block + 2u + (group >> 1u)), (group & 1u) == 1u);
  let scale = q3_k_scales(weight_quad((tails >> 2u) + (chunk >> 3u)), group);
  return Chunk(pairs, weight_word(4u * block + group), scale);
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  return half_of(pairs_of(packed.pairs, h) | (fifth_bits(packed.high, h) >> vec4(2u)));
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(packed.scale, vec2(0.0)); }

const WEIGHT_ZERO = 4.0;
const WEIGHT_SHIFTS = false;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return pairs_of(packed.pairs, h) | (fifth_bits(packed.high, h) >> vec4(2u)); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = true;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let s = chunk_scales(packed);
  return Scales(s.scale, fma(s.scale, vec2(-WEIGHT_ZERO), s.shift));
}
