// Weights of Q2_K: `d * s * q - dmin * m`, with `s` and `m` for each 16 values. Body: 16 bytes of `s` in the low and `m`
// in the high nibble; two words of pairs of bits for each 32 values. Tail: halves `d`, `dmin`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 20u * (col >> 8u);
  let q = pair_at(block + 4u + 2u * ((col >> 5u) & 7u), col);
  let s = weight_byte(block, group_of(col));
  let d = unpack2x16float(weight_word(tails + (col >> 8u)));
  return d.x * f32(s & 15u) * f32(q) - d.y * f32(s >> 4u);
}

struct Chunk { pairs: vec2<u32>, scale: vec2<f32>, min: vec2<f32> }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let block = (row >> 2u) + 5u * (chunk >> 3u);
  let group = chunk & 7u;
  let s = vec2(weight_word(4u * block + (group >> 1u)) >> (16u * (group & 1u))) >> vec2(0u, 8u);
  let d = unpack2x16float(weight_word(tails + (chunk >> 3u)));
  let pairs = two_of(weight_quad(block + 1u + (group >> 1u)), (group & 1u) == 1u);
  return Chunk(pairs, d.x * vec2<f32>(s & vec2(15u)), d.y * vec2<f32>((s >> vec2(4u)) & vec2(15u)));
}

fn chunk_half(packed: Chunk, h: u32) -> Half { return half_of(pairs_of(packed.pairs, h)); }

fn chunk_scales(packed: Chunk) -> Scales { return Scales(packed.scale, -packed.min); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = true;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return pairs_of(packed.pairs, h); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = true;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let s = chunk_scales(packed);
  return Scales(s.scale, fma(s.scale, vec2(-WEIGHT_ZERO), s.shift));
}
