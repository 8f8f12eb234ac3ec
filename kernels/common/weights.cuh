// Weights as `backend-cuda/src/weights.rs` lays them out, and how a warp takes them apart for tensor cores.
//
// Codes are bytes: a product of integers takes them as they are, and sums of 16 or 32 of them are exact. Types whose
// codes are moved by an offset are packed so that the byte is a signed number, a power of two times the code without its
// offset; the others are unsigned. The factor of a group makes up for the power of two.
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

// How codes become bytes: as they are, moved by an offset, or through a codebook.
enum Codes { PLAIN, MOVED, IQ4, MX };

template <int BITS_, int EXTRA_, Scales SCALES_, Codes CODES_ = PLAIN, bool BRAIN_ = false>
struct Type {
  static constexpr int BITS = BITS_;
  static constexpr int EXTRA = EXTRA_;
  static constexpr Scales SCALES = SCALES_;
  static constexpr Codes CODES = CODES_;
  static constexpr bool BRAIN = BRAIN_;  // 16-bit scales are bfloat16
  static constexpr bool SIGNED = CODES_ != PLAIN;
  // Columns of a scale.
  static constexpr int GROUP = SCALES_ == ROW ? 256 : SCALES_ == BYTE16 || SCALES_ == NIBBLE ? 16 : 32;
  // Whether scales are whole numbers, so that the sum of a block is one.
  static constexpr bool WHOLE = SCALES_ == SIX_BIT || SCALES_ == BYTE16 || SCALES_ == BYTE32 || SCALES_ == NIBBLE;
  // What the bytes of rows g and g + 8 are so many times larger than codes. Signed codes begin at the highest bit.
  static constexpr int TIMES = CODES_ == MOVED || EXTRA_ != 0 ? 1 << (8 - BITS_ - EXTRA_) : 1;
  static constexpr int TIMES_ABOVE = BITS_ == 4 && CODES_ == PLAIN && EXTRA_ == 0   ? 16
                                     : BITS_ == 2 && CODES_ == PLAIN && EXTRA_ == 0 ? 4
                                                                                    : TIMES;
  // Whether rows end anywhere but at the end of a block.
  static constexpr bool PARTIAL = SCALES_ == ROW || SCALES_ == HALF || SCALES_ == HALF_MIN;
};

namespace type {
using F32 = Type<32, 0, ROW>;
using F16 = Type<16, 0, ROW>;
using BF16 = Type<16, 0, ROW>;
using Q4_0 = Type<4, 0, HALF, MOVED>;
using Q4_1 = Type<4, 0, HALF_MIN>;
using Q5_0 = Type<4, 1, HALF, MOVED>;
using Q5_1 = Type<4, 1, HALF_MIN>;
using Q8_0 = Type<8, 0, HALF, MOVED>;
using Q2_K = Type<2, 0, NIBBLE>;
using Q3_K = Type<2, 1, BYTE16, MOVED>;
using Q4_K = Type<4, 0, SIX_BIT>;
using Q5_K = Type<4, 1, SIX_BIT>;
using Q6_K = Type<4, 2, BYTE16, MOVED>;
using IQ4_NL = Type<4, 0, HALF, IQ4>;
using IQ4_XS = Type<4, 0, BYTE32, IQ4>;
using MXFP4 = Type<4, 0, HALF, MX, true>;
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

// Four consecutive entries of a codebook as bytes.
__device__ constexpr u32 book(const int (&values)[16], int i) {
  return u32(values[4 * i] & 255) | u32(values[4 * i + 1] & 255) << 8 | u32(values[4 * i + 2] & 255) << 16 |
         u32(values[4 * i + 3] & 255) << 24;
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

__device__ __forceinline__ u32 moved(u32 word, int left) { return left >= 0 ? word << left : word >> -left; }

// The codes of group `h` (32 columns) of a chunk, a byte each: a[0] and a[1] are rows g and g + 8 of its first 16 columns,
// a[2] and a[3] of the others. The bytes are columns 4t, 4t + 2, 4t + 1 and 4t + 3. `codes` and `extra` are the lane's words
// of the chunk.
template <class W>
__device__ __forceinline__ void bytes_of_codes(const u32* codes, const u32* extra, int h, u32 (&a)[4]) {
#pragma unroll
  for (int r = 0; r < 4; r++) {
    if constexpr (W::BITS == 8) {
      a[r] = codes[4 * h + r];
    } else if constexpr (W::BITS == 4) {
      const u32 w = codes[2 * h + r / 2];
      if constexpr (W::CODES == IQ4 || W::CODES == MX) {
        const u32 x = look_up<W::CODES>(w & 0xffffu), y = look_up<W::CODES>(w >> 16);
        a[r] = bytes_of(x, y, r % 2 ? 0x7531u : 0x6420u);
      } else if constexpr (W::TIMES == 1) {
        a[r] = w & (r % 2 ? 0xf0f0f0f0u : 0x0f0f0f0fu);
      } else {
        a[r] = (r % 2 ? w : w << 4) & 0xf0f0f0f0u;
      }
    } else if constexpr (W::TIMES == 1) {
      // Row g + 8 lies two bits above row g.
      a[r] = (r / 2 ? codes[h] >> 4 : codes[h]) & (r % 2 ? 0x0c0c0c0cu : 0x03030303u);
    } else {
      a[r] = codes[h] << (6 - 2 * r) & 0xc0c0c0c0u;
    }
    // The lowest bits of codes, just below the others.
    if constexpr (W::EXTRA == 2) a[r] |= moved(extra[h], 2 - 2 * r) & 0x0c0c0c0cu;
    if constexpr (W::EXTRA == 1) {
      constexpr int bit = 7 - W::BITS;
      a[r] |= moved(extra[0], bit - (4 * h + r)) & 0x01010101u << bit;
    }
  }
}

// The four registers of product `j` (16 columns) of a chunk, as halves of types that are not codes.
template <class W>
__device__ __forceinline__ void fragment(const u32* codes, int j, u32 (&a)[4]) {
  static_assert(W::SCALES == ROW, "codes are bytes");
#pragma unroll
  for (int r = 0; r < 4; r++) a[r] = codes[4 * j + r];
}

// A small unsigned integer as f32: exact, and cheaper than a conversion.
__device__ __forceinline__ float small(u32 code) { return __uint_as_float(0x4b000000u | code) - 8388608.f; }
// The same of a signed one.
__device__ __forceinline__ float small_signed(int code) { return __int_as_float(0x4b400000 + code) - 12582912.f; }
template <class W>
__device__ __forceinline__ float scale16(u32 bits) {
  return W::BRAIN ? __uint_as_float(bits << 16) : float_of(u16(bits));
}
