// Weights of Q6_K: `d * s * (q - 32)`, with `s` for each 16 values. Body: 32 nibbles for each 32 values; two words of
// upper bits for each 32 values; 16 signed bytes `s`. Tail: half `d`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 52u * (col >> 8u);
  let group = (col >> 5u) & 7u;
  let q = nibble_at(block + 4u * group, col) | (pair_at(block + 32u + 2u * group, col) << 4u);
  let s = bitcast<i32>(weight_byte(block + 48u, group_of(col)) << 24u) >> 24u;
  return weight_half(tails, col >> 8u) * f32(s) * (f32(q) - 32.0);
}

struct Chunk { low: vec4<u32>, high: vec2<u32>, factors: u32, scale: u32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let block = (row >> 2u) + 13u * (chunk >> 3u);
  let group = chunk & 7u;
  let high = two_of(weight_quad(block + 8u + (group >> 1u)), (group & 1u) == 1u);
  // Two factors of 0 to 255, as they are with 128 added.
  let factors = (weight_word(4u * block + 48u + (group >> 1u)) >> (16u * (group & 1u))) ^ 0x8080u;
  let scale = weight_word(tails + (chunk >> 4u)) >> (16u * ((chunk >> 3u) & 1u));
  return Chunk(weight_quad(block + group), high, factors, scale);
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  let high = (vec4(packed.high[h]) << vec4(4u, 2u, 0u, 0u)) >> vec4(0u, 0u, 0u, 2u);
  return small_half(nibbles_of(packed.low, h) | (high & vec4(0x30303030u)), 0x00ff00ffu);
}

fn chunk_scales(packed: Chunk) -> Scales {
  let factors = vec2(small(packed.factors & 255u), small((packed.factors >> 8u) & 255u));
  let scale = unpack2x16float(packed.scale).x * fma(factors, vec2(SMALL), vec2(-128.0));
  return Scales(scale * SMALL, vec2(0.0));
}

const WEIGHT_ZERO = 32.0 / SMALL;
const WEIGHT_SHIFTS = false;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h) | (pairs_of(packed.high, h) << vec4(4u)); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = true;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let scale = chunk_scales(packed).scale * (1.0 / SMALL);
  return Scales(scale, -32.0 * scale);
}
