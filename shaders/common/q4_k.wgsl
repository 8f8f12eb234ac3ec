// Weights of Q4_K: `d * s * q - dmin * m`, with `s` and `m` for each 32 values. Block: halves `d` and `dmin`, twelve bytes
// of scales and mins, 32 nibbles for each 32 values.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  let block = row + 36u * (col >> 8u);
  let group = (col >> 5u) & 7u;
  let scale = k_scale_min(weight_quad(block >> 2u), group);
  return scale.x * f32(nibble_at(block + 4u + 4u * group, col)) - scale.y;
}

struct Chunk { low: vec4<u32>, head: vec4<u32>, group: u32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  let block = (row >> 2u) + 9u * (chunk >> 3u);
  let group = chunk & 7u;
  return Chunk(weight_quad(block + 1u + group), weight_quad(block), group);
}

// Numbers of the second half stay where they are, 16 times as large.
fn chunk_half(packed: Chunk, h: u32) -> Half { return small_half(packed.low, 0x000f000fu << (4u * h)); }

fn chunk_scales(packed: Chunk) -> Scales {
  let scale = k_scale_min_small(packed.head, packed.group);
  return Scales(scale.x * vec2(SMALL * SMALL, SMALL * (SMALL / 16.0)), vec2(scale.y * -SMALL));
}

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = true;

// The codes of half a chunk, four signed bytes a word.
fn chunk_codes(packed: Chunk, h: u32) -> vec4<u32> { return nibbles_of(packed.low, h); }

// Whether the halves of a chunk have scales of their own.
const CODE_HALVES = false;

// Scale and shift of plain codes, the zero in the shift.
fn code_scales(packed: Chunk) -> Scales {
  let scale = k_scale_min(packed.head, packed.group);
  return Scales(scale.xx, -scale.yy);
}
