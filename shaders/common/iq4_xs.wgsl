// Weights of IQ4_XS: `d * (s - 32) * IQ4_VALUES[q]`, with `s` for each 32 values. Body: 32 nibbles for each 32 values;
// tail: half `d`, 16 upper bits of the scales, 32 lower ones.

// Scale of a group of 32 values, counted from the start of the row.
fn iq4_xs_scale(tails: u32, group: u32) -> f32 {
  let tail = tails + 2u * (group >> 3u);
  let head = weight_word(tail);
  let low = (weight_word(tail + 1u) >> (4u * (group & 7u))) & 15u;
  let high = (head >> (16u + 2u * (group & 7u))) & 3u;
  return unpack2x16float(head).x * (f32(low | (high << 4u)) - 32.0);
}

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  return iq4_xs_scale(tails, col >> 5u) * iq4_values(nibble_at(row + 4u * (col >> 5u), col)).x;
}

struct Chunk { low: vec4<u32>, scale: f32 }

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(weight_quad((row >> 2u) + chunk), iq4_xs_scale(tails, chunk));
}

fn chunk_half(packed: Chunk, h: u32) -> Half { return iq4_half(nibbles_of(packed.low, h)); }

fn chunk_scales(packed: Chunk) -> Scales { return Scales(vec2(packed.scale), vec2(0.0)); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = false;
