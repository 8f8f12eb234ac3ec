// Weights of BF16, the upper half of F32: two values a word.

fn weight_at(row: u32, tails: u32, col: u32) -> f32 {
  return bitcast<f32>((weight_word(row + (col >> 1u)) >> (16u * (col & 1u))) << 16u);
}

struct Chunk { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn bf16_piece(row: u32, chunk: u32, chunks: u32, j: u32) -> vec4<u32> {
  return weight_quad((row >> 2u) + chunk_piece(chunk, chunks, 4u, j));
}

fn load_chunk(row: u32, tails: u32, chunk: u32, chunks: u32) -> Chunk {
  return Chunk(
    bf16_piece(row, chunk, chunks, 0u), bf16_piece(row, chunk, chunks, 1u),
    bf16_piece(row, chunk, chunks, 2u), bf16_piece(row, chunk, chunks, 3u),
  );
}

fn bf16_quad(words: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}

fn bf16_half(first: vec4<u32>, second: vec4<u32>) -> Half {
  return Half(bf16_quad(first.xy), bf16_quad(first.zw), bf16_quad(second.xy), bf16_quad(second.zw));
}

fn chunk_half(packed: Chunk, h: u32) -> Half {
  if h == 0u { return bf16_half(packed.a, packed.b); }
  return bf16_half(packed.c, packed.d);
}

fn chunk_quad(chunk: u32, chunks: u32, i: u32) -> u32 { return 2u * chunk_piece(chunk, chunks, 4u, i >> 1u) + (i & 1u); }
