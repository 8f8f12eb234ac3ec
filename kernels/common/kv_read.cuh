// Reading keys and values as operands of `mma`: chunks of 16 tokens by 64 values of a head.
//
// A warp copies a chunk from the cache to shared memory as it is stored, and its lanes take their parts from there, as
// keys (the rows of operand A are tokens, its columns values) or as values (rows are values, columns tokens). Which value
// of a chunk stands in which row or column is for the stored type to choose, so that no lane moves a code to another:
// `key_place` and `value_at` say it to those who lay out queries and read results.
//
// Codes become halves exactly: integers of KV_Q8_0 and KV_Q4_0, centroids of KV_TQ3_0 as the sum of two halves of 1024
// times the centroid, of which `rest` is the second. Scales are for the caller. In the other mode, EXACT = 0, values are
// products with their scales, rounded to halves.
#pragma once

#include "common/lanes.cuh"
#include "common/pages.cuh"

// Lane l is lane `g` of eight and `t` of four.
struct Place {
  u32 lane, g, t;
  __device__ explicit Place(u32 lane = threadIdx.x % 32) : lane(lane), g(lane / 4), t(lane % 4) {}
};

// Bytes of a chunk: codes, then scales [blocks of 32, or 1][16 tokens].
__device__ __host__ constexpr u32 chunk_codes(u32 kind) { return 128 * code_bits(kind); }
__device__ __host__ constexpr u32 chunk_bytes(u32 kind) {
  return chunk_codes(kind) + (kind == KV_F16 ? 0 : kind == KV_TQ3_0 ? 32 : 64);
}

// Tokens of a chunk stand in an order, and 16-byte pieces of a token in another, in which no bank is asked twice: of halves, piece
// p of token t is piece p ^ t % 8.
__device__ __forceinline__ u32 q8_piece(u32 token, u32 piece) {
  return (token ^ (token >> 1 & 1)) * 4 + (piece ^ 2 * ((token >> 1 ^ token >> 2) & 1));
}
__device__ __forceinline__ u32 q4_piece(u32 token, u32 piece) {
  const u32 bit = token >> 2 & 1;
  return (token ^ bit) * 2 + (piece ^ bit);
}

// Where this lane's part of a chunk is in the cache: its codes and scales, of 16 tokens from `token` on and values from `value` on.
// `head` is the block in the page. Addresses of the next chunks follow by additions: put together anew for each, they took more
// instructions than the products.
template <u32 KIND, u32 WIDTH>
__device__ __forceinline__ const u8* codes_at(const u8* head, u32 token, u32 value, u32 lane) {
  constexpr u32 ROW = code_bytes(KIND, WIDTH), LANES = KIND == KV_F16 ? 8 : KIND == KV_Q8_0 ? 4 : 2;  // of a token
  return head + ((token + lane / LANES) * ROW + value * code_bits(KIND) / 8 + lane % LANES * (KIND == KV_TQ3_0 ? 8 : 16));
}
template <u32 KIND, u32 WIDTH>
__device__ __forceinline__ const u8* scales_at(const u8* head, u32 token, u32 value, u32 lane) {
  const u32 block = KIND == KV_TQ3_0 ? value / 32 & ~3u : value / 32 + lane / 2;
  return head + (PAGE * code_bytes(KIND, WIDTH) + (block * PAGE + token) * 2 + lane % 2 * 16);
}

// Begins to copy a chunk to `to`, of halves a multiple of 128.
template <u32 KIND, u32 WIDTH>
__device__ __forceinline__ void copy_chunk(u32 to, const u8* codes, const u8* scales, u32 lane) {
  constexpr u32 ROW = code_bytes(KIND, WIDTH);
  if constexpr (KIND == KV_F16) {
    const u32 even = to + lane / 8 * 128 + (lane % 8 ^ lane / 8) * 16;
#pragma unroll
    for (u32 i = 0; i < 4; i++) copy16((i % 2 ? even ^ 64 : even) + 512 * i, codes + 4 * i * ROW);
  } else if constexpr (KIND == KV_Q8_0) {
    const u32 first = to + 16 * q8_piece(lane / 4, lane % 4);
    copy16(first, codes);
    copy16(first + 512, codes + 8 * ROW);
  } else if constexpr (KIND == KV_Q4_0) {
    copy16(to + 16 * q4_piece(lane / 2, lane % 2), codes);
  } else {
    const u32 first = to + lane / 2 * 24 + lane % 2 * 8;
    copy8(first, codes);
    if (lane % 2 == 0) copy8(first + 16, codes + 16);
  }
  if constexpr (KIND != KV_F16) {
    if (lane < (KIND == KV_TQ3_0 ? 2 : 4)) copy16(to + chunk_codes(KIND) + lane * 16, scales);
  }
}

// Four 8 x 8 matrices of halves, rows of 16 bytes: lanes 8 i to 8 i + 7 say where those of matrix i are. As they are, or turned.
template <bool TURNED>
__device__ __forceinline__ void matrices(u32 (&a)[4], u32 from) {
  if constexpr (TURNED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(from));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(from));
}

// Two bytes of a word, the lower or the upper ones, less 128 after their highest bit was turned: what i8 they are.
__device__ __forceinline__ u32 small_integers(u32 w, bool upper) {
  return minus2(bytes_of(w, 0x64646464u, upper ? 0x4342 : 0x4140), 0x64806480u);
}
// Nibble `i` of each half of a word, less 8.
__device__ __forceinline__ u32 small_nibbles(u32 w, u32 i) {
  return minus2((w >> 4 * i & 0x000f000fu) | 0x64006400u, 0x64086408u);
}

// Bits of the half of `scale` times a centroid, or of what it leaves of it.
__device__ constexpr u32 half_bits(float x) {
  if (x == 0.f) return 0;
  const u32 sign = x < 0.f ? 0x8000 : 0;
  float size = x < 0.f ? -x : x;
  int e = 15;
  while (size >= 2.f) { size *= 0.5f; e++; }
  while (size < 1.f && e > 1) { size *= 2.f; e--; }
  const float fraction = (size >= 1.f ? size - 1.f : size) * 1024.f;
  u32 m = u32(fraction);
  const float left = fraction - float(m);
  if (left > 0.5f || (left == 0.5f && m % 2 == 1)) m++;
  return sign | ((size >= 1.f ? u32(e) << 10 : 0) + m);
}
__device__ constexpr float half_value(u32 h) {
  float x = float((h >> 10 & 31 ? 1024 : 0) + (h & 1023)) / 1024.f;
  int e = int(h >> 10 & 31 ? h >> 10 & 31 : 1) - 15;
  for (; e > 0; e--) x *= 2.f;
  for (; e < 0; e++) x *= 0.5f;
  return h & 0x8000 ? -x : x;
}
__device__ constexpr u32 centroid_half(u32 i, float scale, bool rest) {
  const float c = TQ3_CENTROIDS[i] * scale;
  return half_bits(rest ? c - half_value(half_bits(c)) : c);
}
// Four bytes, the lower or the upper ones, of the halves of four centroids.
__device__ constexpr u32 centroid_bytes(u32 first, bool upper, float scale, bool rest) {
  u32 w = 0;
  for (u32 i = 0; i < 4; i++) w |= (centroid_half(first + i, scale, rest) >> (upper ? 8 : 0) & 255) << 8 * i;
  return w;
}

// Halves of the centroids of four indices in the lower nibbles of `indices`: numbers 0 and 1, and 2 and 3.
template <bool REST>
__device__ __forceinline__ void centroids(u32 indices, u32& a, u32& b) {
  constexpr float SCALE = EXACT ? 1024.f : 1.f;
  constexpr u32 L0 = centroid_bytes(0, false, SCALE, REST), L1 = centroid_bytes(4, false, SCALE, REST);
  constexpr u32 H0 = centroid_bytes(0, true, SCALE, REST), H1 = centroid_bytes(4, true, SCALE, REST);
  const u32 low = bytes_of(L0, L1, indices), high = bytes_of(H0, H1, indices);
  a = bytes_of(low, high, 0x5140);
  b = bytes_of(low, high, 0x7362);
}

// Indices of values s, s + 4, ..., s + 28 of a block of three words, a nibble each.
__device__ __forceinline__ u32 indices_of(const u32* w, u32 s) {
  return (w[0] >> s & 0x11111111u) | (__funnelshift_r(w[1], w[1], s - 1) & 0x22222222u) |
         (__funnelshift_r(w[2], w[2], s - 2) & 0x44444444u);
}

__device__ __forceinline__ u32 word_at(const u8* p) { return *reinterpret_cast<const u32*>(p); }

// A lane's part of a chunk of keys, tokens g and g + 8. Step i of 4 has four columns of 16 each: 2 t, 2 t + 1 and those 8 behind.
template <u32 KIND>
struct KeyChunk {
  const u8* chunk;
  Place at;
  u32 w[2][4];  // what the current step was read with
  __device__ KeyChunk(const u8* chunk, const Place& at) : chunk(chunk), at(at) {}

  // Scale of token g + 8 * n, of the block of step i.
  __device__ __forceinline__ float scale(u32 i, u32 n) const {
    if constexpr (KIND == KV_F16) return 1.f;
    const u32 block = KIND == KV_TQ3_0 ? 0 : i / 2;
    const float d = float_of(reinterpret_cast<const u16*>(chunk + chunk_codes(KIND))[block * 16 + at.g + 8 * n]);
    return KIND == KV_TQ3_0 && EXACT ? d * (1.f / 1024.f) : d;
  }

  __device__ __forceinline__ void fragment(u32 i, u32 (&a)[4], u32 (&rest)[4]) {
    if constexpr (KIND == KV_F16) {
      // Pieces 2 i and 2 i + 1 of all tokens.
      const u32 lane = at.lane, piece = lane / 16 ^ lane % 8;
      return matrices<false>(a, shared_address(chunk) + lane % 16 * 128 + piece * 16 ^ 32 * i);
    }
#pragma unroll
    for (u32 n = 0; n < 2; n++) {
      const u32 token = at.g + 8 * n;
      if constexpr (KIND == KV_Q8_0) {
        if (i % 2 == 0) {
          const u32 piece = q8_piece(token, i + at.t / 2);
          const uint2 x = *reinterpret_cast<const uint2*>(chunk + piece * 16 + at.t % 2 * 8);
          w[n][0] = x.x ^ 0x80808080u; w[n][1] = x.y ^ 0x80808080u;
        }
        a[n] = small_integers(w[n][i % 2], false);
        a[n + 2] = small_integers(w[n][i % 2], true);
      } else if constexpr (KIND == KV_Q4_0) {
        if (i % 2 == 0) w[n][0] = word_at(chunk + q4_piece(token, i / 2) * 16 + at.t * 4);
        a[n] = small_nibbles(w[n][0], i % 2);
        a[n + 2] = small_nibbles(w[n][0], i % 2 + 2);
      } else {
        if (i == 0) {
          for (u32 b = 0; b < 3; b++) w[n][b] = word_at(chunk + token * 24 + at.t / 2 * 12 + b * 4);
        }
        const u32 indices = indices_of(w[n], at.t % 2 * 2 + i / 2) >> (i % 2 * 16);
        centroids<false>(indices, a[n], a[n + 2]);
        if (EXACT) centroids<true>(indices, rest[n], rest[n + 2]);
      }
      if (!EXACT) {
        const float d = scale(i, n);
        a[n] = times2(a[n], halves_of(d, d));
        a[n + 2] = times2(a[n + 2], halves_of(d, d));
      }
    }
  }
};

// Where value `e` of 64 stands among a chunk's columns as keys: step, lane t, and which of the lane's four columns.
__device__ __forceinline__ void key_place(u32 kind, u32 e, u32& step, u32& t, u32& column) {
  const u32 block = e / 32, x = e % 32;
  if (kind == KV_F16) {
    step = e / 16; t = e % 8 / 2; column = e % 2 + e / 8 % 2 * 2;
  } else if (kind == KV_Q8_0) {
    t = x / 8; step = 2 * block + x / 4 % 2; column = x % 4;
  } else if (kind == KV_Q4_0) {
    t = x % 16 / 4; step = 2 * block + x / 16; column = (x % 4 >> 1) | (x & 1) << 1;
  } else {
    t = 2 * block + x % 4 / 2; step = x % 2 * 2 + x / 16; column = x / 4 % 4;
  }
}

// A lane's part of a chunk of values: tokens 2 t, 2 t + 1, 2 t + 8 and 2 t + 9. Tile m of 4 has 16 of the 64 values.
template <u32 KIND>
struct ValueChunk {
  const u8* chunk;
  Place at;
  u32 w[4][4];
  __device__ ValueChunk(const u8* chunk, const Place& at) : chunk(chunk), at(at) {}

  // Scales of the lane's tokens of tile m, two halves a word.
  __device__ __forceinline__ void scales(u32 m, u32& d01, u32& d23) const {
    const u32 block = KIND == KV_TQ3_0 ? 0 : m / 2;
    const u32* d = reinterpret_cast<const u32*>(chunk + chunk_codes(KIND)) + block * 8 + at.t;
    d01 = d[0];
    d23 = d[4];
  }

  __device__ __forceinline__ void load(u32 m) {
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
      const u32 token = 2 * at.t + k % 2 + k / 2 * 8;
      if constexpr (KIND == KV_Q8_0) {
        if (m % 2 > 0) continue;
        w[k][0] = word_at(chunk + q8_piece(token, m + at.g / 4) * 16 + at.g % 4 * 4) ^ 0x80808080u;
      } else if constexpr (KIND == KV_Q4_0) {
        if (m % 2 > 0) continue;
        w[k][0] = *reinterpret_cast<const u16*>(chunk + q4_piece(token, m / 2) * 16 + at.g * 2);
      } else {
        if (m > 0) continue;
        u32 x[3];
        for (u32 b = 0; b < 3; b++) x[b] = word_at(chunk + token * 24 + at.g / 4 * 12 + b * 4);
        w[k][0] = indices_of(x, at.g % 4);
      }
    }
  }

  // `pair` 0: the lane's first two tokens, 1: the others; a[0] is row g of the tile, a[1] row g + 8.
  __device__ __forceinline__ void pair(u32 m, const u32 (&x)[4], const u32 (&y)[4], u32* a, u32* rest) const {
    if constexpr (KIND == KV_Q8_0) {
      const u32 both = bytes_of(x[0], y[0], m % 2 ? 0x7362 : 0x5140);
      a[0] = small_integers(both, false);
      a[1] = small_integers(both, true);
    } else if constexpr (KIND == KV_Q4_0) {
      const u32 both = x[0] | y[0] << 16;
      a[0] = small_nibbles(both, m % 2 * 2);
      a[1] = small_nibbles(both, m % 2 * 2 + 1);
    } else {
      const u32 even = (x[0] & 0x0f0f0f0fu) | (y[0] & 0x0f0f0f0fu) << 4;
      const u32 odd = (x[0] >> 4 & 0x0f0f0f0fu) | (y[0] & 0xf0f0f0f0u);
      u32 unused;
      for (u32 n = 0; n < 2; n++) {
        const u32 indices = (n ? odd : even) >> (m / 2 * 16);
        if (m % 2) centroids<false>(indices, unused, a[n]); else centroids<false>(indices, a[n], unused);
        if (!EXACT) continue;
        if (m % 2) centroids<true>(indices, unused, rest[n]); else centroids<true>(indices, rest[n], unused);
      }
    }
  }

  __device__ __forceinline__ void fragment(u32 m, u32 (&a)[4], u32 (&rest)[4]) {
    if constexpr (KIND == KV_F16) {
      // Pieces 2 m and 2 m + 1, of tokens 0 to 7 and then of the others.
      const u32 lane = at.lane, piece = lane / 8 % 2 ^ lane % 8;
      return matrices<true>(a, shared_address(chunk) + (lane % 8 + lane / 16 * 8) * 128 + piece * 16 ^ 32 * m);
    }
    load(m);
    pair(m, w[0], w[1], a, rest);
    pair(m, w[2], w[3], a + 2, rest + 2);
    if (!EXACT) {
      u32 d01, d23;
      scales(m, d01, d23);
      a[0] = times2(a[0], d01); a[1] = times2(a[1], d01);
      a[2] = times2(a[2], d23); a[3] = times2(a[3], d23);
    }
  }
};

// Which value of the 64 is row g + 8 * half of tile m.
__device__ __forceinline__ u32 value_at(u32 kind, u32 m, u32 half, u32 g) {
  const u32 n = 2 * m + half;
  if (kind == KV_F16) return 8 * n + g;
  if (kind == KV_Q8_0) return m / 2 * 32 + 4 * g + n % 4;
  if (kind == KV_Q4_0) return m / 2 * 32 + 2 * g + n % 4 / 2 + n % 2 * 16;
  return g / 4 * 32 + 4 * n + g % 4;
}
