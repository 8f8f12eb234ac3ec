// Codes as numbers over SMALL, for devices that take subnormal halves for zeros.

// What is left to the scale.
const SMALL = 16777216.0;

// A number below 1024.
fn small(number: u32) -> f32 { return f32(number) / SMALL; }

// The numbers below 1024 in the halves of a word.
fn small_pair(word: u32) -> vec2<f32> { return vec2(f32(word & 0xffffu), f32(word >> 16u)) / SMALL; }

// The bits of the mask in the even and the odd bytes of a word.
fn small_quad(word: u32, mask: u32) -> vec4<f32> { return bytes_of(word & (mask | (mask << 8u))) * (1.0 / SMALL); }

fn small_half(words: vec4<u32>, mask: u32) -> Half {
  return Half(
    small_quad(words.x, mask), small_quad(words.y, mask), small_quad(words.z, mask), small_quad(words.w, mask),
  );
}
