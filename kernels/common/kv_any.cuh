// One value of the cache at a time, of any type: for kernels that need not be fast.
#pragma once

#include "common/lanes.cuh"
#include "common/pages.cuh"

// Value `d` of token `token` of a block, in the domain it is stored in.
__device__ __forceinline__ float value_of(u32 kind, const u8* head, u32 token, u32 dim, u32 d) {
  const u8* row = head + size_t(token) * code_bytes(kind, dim);
  if (kind == KV_F32) return reinterpret_cast<const float*>(row)[d];
  if (kind == KV_F16) return float_of(reinterpret_cast<const u16*>(row)[d]);
  const u32 block = kind == KV_TQ3_0 ? d / 32 & ~3u : d / 32;
  const u16* scales = reinterpret_cast<const u16*>(head + PAGE * code_bytes(kind, dim));
  const float scale = float_of(scales[block * PAGE + token]);
  if (kind == KV_Q8_0) return float(reinterpret_cast<const signed char*>(row)[d]) * scale;
  if (kind == KV_Q4_0) return float(int(row[d / 32 * 16 + d % 16] >> (d % 32 / 16 * 4) & 15) - 8) * scale;
  const u32* planes = reinterpret_cast<const u32*>(row) + d / 32 * 3;
  u32 index = 0;
  for (u32 b = 0; b < 3; b++) index |= (planes[b] >> (d % 32) & 1) << b;
  return TQ3_CENTROIDS[index] * scale;
}
