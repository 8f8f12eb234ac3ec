// Weights as files hold them: value `i` of a block of bytes, for tables that stay in host memory. The layouts, formulas
// and bits are those of core/src/quant: products are rounded before sums. No field is aligned.
#pragma once

#include "common/half.cuh"
#include "gen/abi.cuh"

namespace raw {

__device__ __forceinline__ u32 word16(const u8* at) { return at[0] | u32(at[1]) << 8; }
__device__ __forceinline__ u32 word32(const u8* at) { return word16(at) | word16(at + 2) << 16; }
__device__ __forceinline__ float half_at(const u8* at) { return float_of(u16(word16(at))); }
// Bits of nibble `i` of planar nibbles: `HALF` low ones, then as many high ones.
template <u32 HALF>
__device__ __forceinline__ u32 nibble(const u8* at, u32 i) {
  return at[i % HALF] >> (i / HALF % 2 * 4) & 15;
}
__device__ __forceinline__ float scaled(float d, int q) { return __fmul_rn(d, float(q)); }
__device__ __forceinline__ float shifted(float d, int q, float m) { return __fadd_rn(__fmul_rn(d, float(q)), m); }

struct F32 {
  static constexpr u32 VALUES = 1, BYTES = 4;
  static __device__ float at(const u8* b, u32) { return __uint_as_float(word32(b)); }
};
struct F16 {
  static constexpr u32 VALUES = 1, BYTES = 2;
  static __device__ float at(const u8* b, u32) { return half_at(b); }
};
struct BF16 {
  static constexpr u32 VALUES = 1, BYTES = 2;
  static __device__ float at(const u8* b, u32) { return __uint_as_float(word16(b) << 16); }
};
struct Q4_0 {
  static constexpr u32 VALUES = 32, BYTES = 18;
  static __device__ float at(const u8* b, u32 i) { return scaled(half_at(b), int(nibble<16>(b + 2, i)) - 8); }
};
struct Q4_1 {
  static constexpr u32 VALUES = 32, BYTES = 20;
  static __device__ float at(const u8* b, u32 i) { return shifted(half_at(b), nibble<16>(b + 4, i), half_at(b + 2)); }
};
struct Q5_0 {
  static constexpr u32 VALUES = 32, BYTES = 22;
  static __device__ float at(const u8* b, u32 i) {
    return scaled(half_at(b), int(nibble<16>(b + 6, i) | (b[2 + i / 8] >> (i % 8) & 1) << 4) - 16);
  }
};
struct Q5_1 {
  static constexpr u32 VALUES = 32, BYTES = 24;
  static __device__ float at(const u8* b, u32 i) {
    return shifted(half_at(b), nibble<16>(b + 8, i) | (b[4 + i / 8] >> (i % 8) & 1) << 4, half_at(b + 2));
  }
};
struct Q8_0 {
  static constexpr u32 VALUES = 32, BYTES = 34;
  static __device__ float at(const u8* b, u32 i) { return scaled(half_at(b), static_cast<signed char>(b[2 + i])); }
};
struct IQ4_NL {
  static constexpr u32 VALUES = 32, BYTES = 18;
  static __device__ float at(const u8* b, u32 i) { return scaled(half_at(b), IQ4_VALUES[nibble<16>(b + 2, i)]); }
};
struct MXFP4 {
  static constexpr u32 VALUES = 32, BYTES = 17;
  static __device__ float at(const u8* b, u32 i) {
    // 2^(e - 128): below 2^-126 a single bit of the fraction.
    const u32 e = b[0];
    const float d = __uint_as_float(e < 2 ? 1u << (21 + e) : (e - 1) << 23);
    return scaled(d, MXFP4_VALUES[nibble<16>(b + 1, i)]);
  }
};
// Bits 2s and 2s + 1 of byte l of each 32, which is value 32 s + l of 128.
__device__ __forceinline__ u32 two_bits(const u8* at, u32 i) { return at[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3; }

struct Q2_K {
  static constexpr u32 VALUES = 256, BYTES = 84;
  static __device__ float at(const u8* b, u32 i) {
    const u32 s = b[i / 16];
    return shifted(scaled(half_at(b + 80), s & 15), two_bits(b + 16, i), -scaled(half_at(b + 82), s >> 4));
  }
};
struct Q3_K {
  static constexpr u32 VALUES = 256, BYTES = 110;
  static __device__ float at(const u8* b, u32 i) {
    const u32 g = i / 16;
    const u32 s = (b[96 + g % 8] >> (g / 8 * 4) & 15) | (b[104 + g % 4] >> (g / 4 * 2) & 3) << 4;
    const u32 q = two_bits(b + 32, i) | (b[i % 32] >> (i / 32) & 1) << 2;
    return scaled(scaled(half_at(b + 108), int(s) - 32), int(q) - 4);
  }
};
// The scale and the min of group `g` of Q4_K and Q5_K, multiplied.
__device__ __forceinline__ float2 scale_and_min(const u8* b, u32 g) {
  const u8* s = b + 4;
  const u32 h = g % 4;
  const u32 scale = g < 4 ? s[h] & 63u : (s[8 + h] & 15u) | u32(s[h] >> 6) << 4;
  const u32 min = g < 4 ? s[4 + h] & 63u : u32(s[8 + h] >> 4) | u32(s[4 + h] >> 6) << 4;
  return make_float2(scaled(half_at(b), scale), scaled(half_at(b + 2), min));
}
struct Q4_K {
  static constexpr u32 VALUES = 256, BYTES = 144;
  static __device__ float at(const u8* b, u32 i) {
    const float2 s = scale_and_min(b, i / 32);
    return shifted(s.x, nibble<32>(b + 16 + i / 64 * 32, i % 64), -s.y);
  }
};
struct Q5_K {
  static constexpr u32 VALUES = 256, BYTES = 176;
  static __device__ float at(const u8* b, u32 i) {
    const float2 s = scale_and_min(b, i / 32);
    return shifted(s.x, nibble<32>(b + 48 + i / 64 * 32, i % 64) | (b[16 + i % 32] >> (i / 32) & 1) << 4, -s.y);
  }
};
struct Q6_K {
  static constexpr u32 VALUES = 256, BYTES = 210;
  static __device__ float at(const u8* b, u32 i) {
    const u32 low = nibble<64>(b + i / 128 * 64, i % 128);
    const u32 q = low | (b[128 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) << 4;
    return scaled(scaled(half_at(b + 208), static_cast<signed char>(b[192 + i / 16])), int(q) - 32);
  }
};
struct IQ4_XS {
  static constexpr u32 VALUES = 256, BYTES = 136;
  static __device__ float at(const u8* b, u32 i) {
    const u32 g = i / 32;
    const u32 s = (word32(b + 4) >> (4 * g) & 15) | (word16(b + 2) >> (2 * g) & 3) << 4;
    return scaled(scaled(half_at(b), int(s) - 32), IQ4_VALUES[nibble<16>(b + 8 + g * 16, i % 32)]);
  }
};

}  // namespace raw
