// Gumbel noise of tokens at a position: the bits of core/src/sample.rs, the logarithms in f32.
#pragma once

// Philox4x32-10. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
static __device__ __forceinline__ uint4 philox(uint4 counter, unsigned key_low, unsigned key_high) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
    const unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
    counter = make_uint4(high1 ^ counter.y ^ key_low, low1, high0 ^ counter.w ^ key_high, low0);
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

// -ln(-ln(u)) with u = n / 2^25 and n = 2 (word >> 8) + 1, within 2^-22 of the inner logarithm and 2^-23 of the outer.
static __device__ __forceinline__ float gumbel(unsigned word) {
  const unsigned n = 2 * (word >> 8) + 1;
  // Above 1/2 an f32 does not hold u, but 1 - u it does.
  const float log_u = n > 1u << 24 ? log1pf(-float((1u << 25) - n) * 0x1p-25f) : logf(float(n) * 0x1p-25f);
  return -logf(-log_u);
}

// The words of tokens 4 `quad` to 4 `quad` + 3.
static __device__ __forceinline__ uint4 words_of(const DrawInfo& draw, unsigned quad) {
  return philox(make_uint4(quad, draw.position, 0u, 0u), draw.seed_low, draw.seed_high);
}

static __device__ __forceinline__ float gumbel_of(const DrawInfo& draw, unsigned token) {
  const uint4 words = words_of(draw, token / 4);
  const unsigned low = token & 1 ? words.y : words.x, high = token & 1 ? words.w : words.z;
  return gumbel(token & 2 ? high : low);
}
