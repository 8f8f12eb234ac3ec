// Weights of F32: a value a word.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 { return bitcast<f32>(weight_word(row + col)); }

struct Chunk { first: array<vec4<u32>, 4>, second: array<vec4<u32>, 4> }

fn f32_piece(row: u32, chunk: u32, chunks: u32, j: u32) -> vec4<u32> {
  return weight_quad((row >> 2u) + chunk_piece(chunk, chunks, 8u, j));
}

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(
    array(
      f32_piece(row, chunk, chunks, 0u), f32_piece(row, chunk, chunks, 1u),
      f32_piece(row, chunk, chunks, 2u), f32_piece(row, chunk, chunks, 3u),
    ),
    array(
      f32_piece(row, chunk, chunks, 4u), f32_piece(row, chunk, chunks, 5u),
      f32_piece(row, chunk, chunks, 6u), f32_piece(row, chunk, chunks, 7u),
    ),
  );
}

fn f32_half(words: array<vec4<u32>, 4>) -> Half {
  return Half(
    bitcast<vec4<f32>>(words[0]), bitcast<vec4<f32>>(words[1]),
    bitcast<vec4<f32>>(words[2]), bitcast<vec4<f32>>(words[3]),
  );
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  if h == 0u { return f32_half(packed.first); }
  return f32_half(packed.second);
}

fn chunk_quad(chunk: u32, chunks: u32, i: u32) -> u32 { return chunk_piece(chunk, chunks, 8u, i); }
