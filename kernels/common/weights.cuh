// Weights as `backend-cuda/src/weights.rs` lays them out, and how a warp takes them apart for tensor cores.
//
// Codes become halves without arithmetic: a code in the lowest bits of a half is a subnormal number, 2^-24 times the
// code, which `mma` multiplies exactly. The scale of a group makes up for it, once for each sum of 16 or 32 products.
//
// Codes are not negative. Products are by so many times the sum of x too large as is subtracted from a code, which their
// sum begins with: what `mma` cuts off is then relative to that. Numbers of a codebook may be 128 times smaller than what
// makes them positive (MXFP4 has 0 to 12), so products take those as they are, see `in_products`.
#pragma once

#include "common/half.cuh"
#include "gen/abi.cuh"

struct WeightView {
  const u8* codes;
  const u8* extra;
  const u8* scales;
  const u8* deltas;
  u32 rows;    // of an expert
  u32 cols;
  u32 tiles;   // of 16 rows, of an expert
  u32 chunks;  // of 64 columns
};

enum Scales { ROW, HALF, HALF_MIN, SIX_BIT, BYTE16, BYTE32, NIBBLE };

// What is subtracted from codes, or how else they become numbers.
enum Codes { PLAIN, IQ4, MX };

template <int BITS_, int EXTRA_, Scales SCALES_, int OFFSET_, Codes CODES_ = PLAIN, bool BRAIN_ = false>
struct Type {
  static constexpr int BITS = BITS_;
  static constexpr int EXTRA = EXTRA_;
  static constexpr Scales SCALES = SCALES_;
  static constexpr int OFFSET = OFFSET_;      // of codes
  static constexpr Codes CODES = CODES_;
  static constexpr bool BRAIN = BRAIN_;       // 16-bit scales are bfloat16
  // Columns of a scale.
  static constexpr int GROUP = SCALES_ == ROW ? 256 : SCALES_ == BYTE16 || SCALES_ == NIBBLE ? 16 : 32;
  // Rows g + 8 come multiplied with this.
  static constexpr float ABOVE = SCALES_ == ROW || CODES_ != PLAIN ? 1.f : BITS_ == 4 ? 16.f : BITS_ == 2 ? 4.f : 1.f;
  // What the numbers of subnormal halves are multiplied with to be codes.
  static constexpr float UNIT = SCALES_ == ROW || CODES_ != PLAIN ? 1.f : 16777216.f;
  // What products are by so many times the sum of x too large.
  static constexpr int EXCESS = CODES_ == PLAIN ? OFFSET_ : 0;
  // Whether rows end anywhere but at the end of a block.
  static constexpr bool PARTIAL = SCALES_ == ROW || SCALES_ == HALF || SCALES_ == HALF_MIN;
};

namespace type {
using F32 = Type<32, 0, ROW, 0>;
using F16 = Type<16, 0, ROW, 0>;
using BF16 = Type<16, 0, ROW, 0>;
using Q4_0 = Type<4, 0, HALF, 8>;
using Q4_1 = Type<4, 0, HALF_MIN, 0>;
using Q5_0 = Type<4, 1, HALF, 16>;
using Q5_1 = Type<4, 1, HALF_MIN, 0>;
using Q8_0 = Type<8, 0, HALF, 128>;
using Q2_K = Type<2, 0, NIBBLE, 0>;
using Q3_K = Type<2, 1, BYTE16, 4>;
using Q4_K = Type<4, 0, SIX_BIT, 0>;
using Q5_K = Type<4, 1, SIX_BIT, 0>;
using Q6_K = Type<4, 2, BYTE16, 32>;
using IQ4_NL = Type<4, 0, HALF, 128, IQ4>;
using IQ4_XS = Type<4, 0, BYTE32, 128, IQ4>;
using MXFP4 = Type<4, 0, HALF, 128, MX, true>;
}  // namespace type

__device__ __forceinline__ uint4 stream16(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 stream8(const void* p) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ __forceinline__ u32 stream4(const void* p) {
  u32 v;
  asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}

// Four consecutive entries of a codebook, each 128 higher, as bytes.
__device__ constexpr u32 book(const int (&values)[16], int i) {
  return u32(values[4 * i] + 128) | u32(values[4 * i + 1] + 128) << 8 | u32(values[4 * i + 2] + 128) << 16 |
         u32(values[4 * i + 3] + 128) << 24;
}

// The entries of four nibbles, a byte each.
template <Codes CODES>
__device__ __forceinline__ u32 look_up(u32 nibbles) {
  constexpr u32 b0 = CODES == IQ4 ? book(IQ4_VALUES, 0) : book(MXFP4_VALUES, 0);
  constexpr u32 b1 = CODES == IQ4 ? book(IQ4_VALUES, 1) : book(MXFP4_VALUES, 1);
  constexpr u32 b2 = CODES == IQ4 ? book(IQ4_VALUES, 2) : book(MXFP4_VALUES, 2);
  constexpr u32 b3 = CODES == IQ4 ? book(IQ4_VALUES, 3) : book(MXFP4_VALUES, 3);
  const u32 index = nibbles & 0x7777u;
  const u32 lower = __byte_perm(b0, b1, index), upper = __byte_perm(b2, b3, index);
  return __byte_perm(lower, upper, 0x3210u | (nibbles & 0x8888u) >> 1);
}

__device__ __forceinline__ u32 shifted(u32 word, int right) { return right >= 0 ? word >> right : word << -right; }

// The four registers of product `j` of a chunk: rows of codes as halves. `codes` and `extra` are the lane's words of it.
template <class W>
__device__ __forceinline__ void fragment(const u32* codes, const u32* extra, int j, u32 (&a)[4]) {
  if constexpr (W::SCALES == ROW) {
    for (int r = 0; r < 4; r++) a[r] = codes[4 * j + r];
  } else if constexpr (W::CODES != PLAIN) {
    const u32 x = look_up<W::CODES>(codes[j] & 0xffffu), y = look_up<W::CODES>(codes[j] >> 16);
    const u32 p = __byte_perm(x, y, 0x5410), q = __byte_perm(x, y, 0x7632);
    a[0] = p & 0x00ff00ffu;
    a[1] = p >> 8 & 0x00ff00ffu;
    a[2] = q & 0x00ff00ffu;
    a[3] = q >> 8 & 0x00ff00ffu;
  } else if constexpr (W::BITS == 8) {
    for (int r = 0; r < 4; r++) a[r] = codes[2 * j + r / 2] >> (r % 2 * 8) & 0x00ff00ffu;
  } else if constexpr (W::BITS == 4) {
    const u32 w = codes[j], v = w >> 8;
    a[0] = w & 0x000f000fu;
    a[1] = w & 0x00f000f0u;
    a[2] = v & 0x000f000fu;
    a[3] = v & 0x00f000f0u;
  } else {
    const u32 w = codes[j / 2] >> (j % 2 * 8), v = w >> 4;
    a[0] = w & 0x00030003u;
    a[1] = w & 0x000c000cu;
    a[2] = v & 0x00030003u;
    a[3] = v & 0x000c000cu;
  }
  if constexpr (W::EXTRA != 0) {
    // Two registers share a shift: their upper bits are as far apart as their places (`pack.rs`).
    constexpr u32 mask = W::EXTRA == 2 ? 0x00300030u : W::BITS == 4 ? 0x00100010u : 0x00040004u;
    for (int pair = 0; pair < 2; pair++) {
      int first, word = 0;
      if constexpr (W::EXTRA == 2) {
        const int k = 2 * (j % 2) + pair;
        first = k < 2 ? 2 * k : 2 * k + 4;
        word = j / 2;
      } else {
        const int k = 2 * j + pair;
        first = W::BITS == 2 ? k / 2 * 4 + k % 2 : k < 4 ? k : k + 4;
      }
      const u32 bits = shifted(extra[word], first - W::BITS);
      a[2 * pair] |= bits & mask;
      a[2 * pair + 1] |= bits & mask << W::BITS;
    }
  }
}

// Registers of `fragment` as products take them: numbers of a codebook without their offset. 1024 + code is a half whose
// lowest bits are the code; 0xe400 is -1024, and steps of a half there are 1.
template <class W>
__device__ __forceinline__ void in_products(u32 (&a)[4]) {
  if constexpr (W::CODES != PLAIN) {
    for (int r = 0; r < 4; r++) a[r] = add2(a[r] | 0x64006400u, twice(0xe400u + W::OFFSET));
  }
}

// A small unsigned integer as f32: exact, and cheaper than a conversion.
__device__ __forceinline__ float small(u32 code) { return __uint_as_float(0x4b000000u | code) - 8388608.f; }
// The same of byte `i` of a word of signed bytes.
__device__ __forceinline__ float signed_byte(u32 word, int i) {
  return __uint_as_float(__byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7440u | i)) - 8388736.f;
}
template <class W>
__device__ __forceinline__ float scale16(u32 bits) {
  return W::BRAIN ? __uint_as_float(bits << 16) : float_of(u16(bits));
}
