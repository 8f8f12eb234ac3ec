// Where the values of a chunk are in types of floats: eight chunks share 256 columns, and each takes every eighth 16
// bytes of them, so that lanes read what is side by side. The last chunks of a row may be fewer than eight.

// Number `j` of the 16 bytes of a chunk, counted from the start of the row; `each` of them make a chunk.
fn chunk_piece(chunk: u32, chunks: u32, each: u32, j: u32) -> u32 {
  let first = chunk & ~7u;
  return first * each + (chunk & 7u) + min(chunks - first, 8u) * j;
}

fn chunk_scales(packed: Chunk) -> Scales { return Scales(vec2(1.0), vec2(0.0)); }

const WEIGHT_ZERO = 0.0;
const WEIGHT_SHIFTS = false;
