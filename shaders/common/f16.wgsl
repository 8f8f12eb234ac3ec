// Weights of F16: two values a word.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  return weight_half(row, col);
}

struct Chunk { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn f16_piece(row: u32, chunk: u32, chunks: u32, j: u32) -> vec4<u32> {
  return weight_quad((row >> 2u) + chunk_piece(chunk, chunks, 4u, j));
}

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(
    f16_piece(row, chunk, chunks, 0u), f16_piece(row, chunk, chunks, 1u),
    f16_piece(row, chunk, chunks, 2u), f16_piece(row, chunk, chunks, 3u),
  );
}

fn f16_quad(words: vec2<u32>) -> vec4<f32> {
  return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn f16_half(first: vec4<u32>, second: vec4<u32>) -> Half {
  return Half(f16_quad(first.xy), f16_quad(first.zw), f16_quad(second.xy), f16_quad(second.zw));
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  if h == 0u { return f16_half(packed.a, packed.b); }
  return f16_half(packed.c, packed.d);
}

fn chunk_quad(chunk: u32, chunks: u32, i: u32) -> u32 { return 2u * chunk_piece(chunk, chunks, 4u, i >> 1u) + (i & 1u); }
