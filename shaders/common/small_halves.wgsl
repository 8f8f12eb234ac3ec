// Codes as numbers over SMALL, for devices that keep subnormal halves: those are whole numbers by a power of two, and are
// converted where sums are made, at a multiple of the rate of conversions from integers.

// What is left to the scale.
const SMALL = 16777216.0;

// A number below 1024.
fn small(number: u32) -> f32 { return unpack2x16float(number).x; }

// The numbers below 1024 in the halves of a word.
fn small_pair(word: u32) -> vec2<f32> { return unpack2x16float(word); }

// The bits of the mask in the even and the odd bytes of a word.
fn small_quad(word: u32, mask: u32) -> vec4<f32> {
  let even = unpack2x16float(word & mask);
  let odd = unpack2x16float((word >> 8u) & mask);
  return vec4(even.x, odd.x, even.y, odd.y);
}

fn small_half(words: vec4<u32>, mask: u32) -> Half {
  return Half(
    small_quad(words.x, mask), small_quad(words.y, mask), small_quad(words.z, mask), small_quad(words.w, mask),
  );
}
