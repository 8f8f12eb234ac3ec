// Scales of rows g and g + 8 of a tile of weights, for lane (g, t): those of a block of 256 columns, or of a chunk of 64.
#pragma once

#include "common/weights.cuh"

template <class W>
struct Head {
  // Bytes of a tile: of a chunk, of a block, and of a block's factors.
  static constexpr int CHUNK = W::SCALES == HALF ? 64 : W::SCALES == HALF_MIN ? 128 : 0;
  static constexpr int BLOCK =
      W::SCALES == SIX_BIT || W::SCALES == BYTE16 || W::SCALES == NIBBLE ? 256 : W::SCALES == BYTE32 ? 128 : 0;
  static constexpr int DELTAS = W::SCALES == BYTE16 || W::SCALES == BYTE32 ? 32 : W::SCALES == NIBBLE ? 64 : 0;

  uint4 scales[2];
  u32 deltas[2];
  u32 six[2][2];  // SIX_BIT: the factors of rows g and g + 8, a byte each

  // Reads those of a block.
  __device__ __forceinline__ void block(const u8* from, const u8* from_deltas) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u32 row = threadIdx.x % 32 / 4 + 8 * i;
      if constexpr (BLOCK == 256) scales[i] = reinterpret_cast<const uint4*>(from)[row];
      if constexpr (W::SCALES == SIX_BIT) {
        const uint4 v = scales[i];
        six[i][0] = v.w & 0x3f3f3f3fu;
        six[i][1] = v.w >> 2 & 0x30303030u | v.y >> 4 & 0x0c0c0c0cu | v.z >> 6 & 0x03030303u;
      }
      if constexpr (BLOCK == 128) {
        const uint2 v = reinterpret_cast<const uint2*>(from)[row];
        scales[i].x = v.x, scales[i].y = v.y;
      }
      if constexpr (DELTAS == 32) deltas[i] = reinterpret_cast<const u16*>(from_deltas)[row];
      if constexpr (DELTAS == 64) deltas[i] = reinterpret_cast<const u32*>(from_deltas)[row];
    }
  }

  // Reads those of chunk `c` after `from`.
  __device__ __forceinline__ void chunk(const u8* from, int c) {
    const u32 at = c * 8 + threadIdx.x % 32 / 4;
    if constexpr (W::SCALES == HALF) {
      const uint2 v = reinterpret_cast<const uint2*>(from)[at];
      scales[0].x = v.x, scales[0].y = v.y;
    }
    if constexpr (W::SCALES == HALF_MIN) scales[0] = reinterpret_cast<const uint4*>(from)[at];
  }

  // WHOLE: the factor of group `j` (of W::GROUP columns) for row g (`i` = 0) or g + 8.
  __device__ __forceinline__ int whole(int j, int i) const {
    if constexpr (W::SCALES == SIX_BIT) {
      return int(bytes_of(six[i][j / 4], 0u, 0x4440u | u32(j % 4)));
    } else if constexpr (W::SCALES == NIBBLE) {
      return int((j / 8 == 0 ? scales[i].x : scales[i].y) >> (4 * (j % 8)) & 15u);
    } else {
      const u32 v = j / 4 == 0 ? scales[i].x : j / 4 == 1 ? scales[i].y : j / 4 == 2 ? scales[i].z : scales[i].w;
      // With its sign in all bits above.
      return int(bytes_of(v, 0u, 0x1111u * u32(8 | j % 4) - 8u));
    }
  }

  // The same as a number, of any type.
  __device__ __forceinline__ float scale(int j, int i) const {
    if constexpr (W::SCALES == HALF || W::SCALES == HALF_MIN) {
      const u32 v = i ? scales[0].y : scales[0].x;
      return scale16<W>(j % 2 ? v >> 16 : v & 0xffffu);
    } else if constexpr (W::WHOLE) {
      return small_signed(whole(j, i));
    }
    return 1.f;
  }

  // HALF_MIN: the offset of group `j`.
  __device__ __forceinline__ float min(int j, int i) const {
    const u32 v = i ? scales[0].w : scales[0].z;
    return float_of(u16(j % 2 ? v >> 16 : v));
  }

  // What every group of the block is multiplied with, for row g or g + 8, if bytes stand for codes.
  __device__ __forceinline__ float factor(int i) const {
    constexpr float unit[2] = {1.f / W::TIMES, 1.f / W::TIMES_ABOVE};
    if constexpr (W::SCALES == SIX_BIT) return low_half(scales[i].x) * unit[i];
    if constexpr (DELTAS != 0) return low_half(deltas[i]) * unit[i];
    return unit[i];
  }

  // SIX_BIT, NIBBLE: the codes of the mins of a half of the block (of all of it), twice over, and their factor. As halves
  // they are subnormal numbers, 2^-24 times the code, which `mma` multiplies exactly.
  __device__ __forceinline__ void mins(int half, u32 (&a)[4]) const {
    const u32 t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint4 v = scales[i];
      if constexpr (W::SCALES == SIX_BIT) a[i] = (t < 2 ? v.y : v.z) >> (t % 2 * 8) & 0x003f003fu;
      else a[i] = (half ? v.w : v.z) >> (4 * t) & 0x000f000fu;
      a[i + 2] = a[i];
    }
  }
  // SIX_BIT, NIBBLE: what is subtracted from values of group `j`.
  __device__ __forceinline__ float min_of(int j, int i) const {
    const uint4 v = scales[i];
    if constexpr (W::SCALES == SIX_BIT) return small((j < 4 ? v.y : v.z) >> (j / 2 % 2 * 8 + j % 2 * 16) & 63u) * high_half(v.x);
    else return small((j < 8 ? v.z : v.w) >> (4 * (j % 8 / 2) + 16 * (j % 2)) & 15u) * high_half(deltas[i]);
  }
  __device__ __forceinline__ float min_factor(int i) const {
    return (W::SCALES == SIX_BIT ? high_half(scales[i].x) : high_half(deltas[i])) * 16777216.f;
  }
};
