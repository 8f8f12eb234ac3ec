// Weights of Q8_0: `d * q`. Body: 32 signed bytes; tail: half `d`.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let word = weight_word(row + 8u * (col >> 5u) + quad_of(col));
  let q = bitcast<i32>(word << (24u - 8u * (col & 3u))) >> 24u;
  return weight_half(tails, col >> 5u) * f32(q);
}

struct Chunk { first: vec4<u32>, second: vec4<u32>, scale: f32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let body = (row >> 2u) + 2u * chunk;
  return Chunk(weight_quad(body), weight_quad(body + 1u), weight_half(tails, chunk));
}

fn q8_0_quad(word: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(word)); }

fn chunk_half(packed: Chunk, h: u32) -> Half {
  let words = select(packed.first, packed.second, h == 1u);
  return Half(q8_0_quad(words.x), q8_0_quad(words.y), q8_0_quad(words.z), q8_0_quad(words.w));
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(vec2(packed.scale), vec2(0.0)); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = false;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return select(packed.first, packed.second, h == 1u); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = false;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let s = chunk_scales(packed);
  return Scales(s.scale, fma(s.scale, vec2(-WEIGHT_ZERO), s.shift));
}
