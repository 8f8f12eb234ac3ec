// The transform of KV_TQ3_0 on groups of 128 values that a warp holds. core/src/kv_type/tq3.rs is the specification.
#pragma once

#include "common/lanes.cuh"
#include "gen/abi.cuh"

// x, or -x if element `i` of a group changes sign; `second` chooses TQ3_SIGNS2.
__device__ __forceinline__ float signed_by(float x, bool second, u32 i) {
  const u32 w = i / 32 % 4;
  const u32 low = second ? (w & 1 ? TQ3_SIGNS2[1] : TQ3_SIGNS2[0]) : (w & 1 ? TQ3_SIGNS1[1] : TQ3_SIGNS1[0]);
  const u32 high = second ? (w & 1 ? TQ3_SIGNS2[3] : TQ3_SIGNS2[2]) : (w & 1 ? TQ3_SIGNS1[3] : TQ3_SIGNS1[2]);
  const u32 bit = (w & 2 ? high : low) >> (i % 32) & 1;
  return __uint_as_float(__float_as_uint(x) ^ bit << 31);
}

// diag(s2) H diag(s1), or with `back` its inverse, where lane l holds EACH consecutive values from EACH * l on: 128 / EACH
// lanes a group. Neighbours are added first, then pairs and so on.
template <u32 EACH>
__device__ __forceinline__ void rotate(float (&v)[EACH], bool back) {
  const u32 lane = thread_anew() % 32, first = lane * EACH % 128;
#pragma unroll
  for (u32 i = 0; i < EACH; i++) v[i] = signed_by(v[i], back, first + i);
#pragma unroll
  for (u32 stride = 1; stride < EACH; stride *= 2) {
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
      if (i & stride) continue;
      const float a = v[i], b = v[i + stride];
      v[i] = a + b;
      v[i + stride] = a - b;
    }
  }
#pragma unroll
  for (u32 mask = 1; mask < 128 / EACH; mask *= 2) {
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
      const float other = __shfl_xor_sync(~0u, v[i], mask);
      v[i] = lane & mask ? other - v[i] : v[i] + other;
    }
  }
#pragma unroll
  for (u32 i = 0; i < EACH; i++) v[i] = signed_by(v[i] * TQ3_SCALE, !back, first + i);
}
