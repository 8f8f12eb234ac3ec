// attention, decode class: which rows, heads and keys a block takes. attention.cu says how results come together.
#pragma once

#include "common/attend_columns.cuh"
#include "common/lanes.cuh"

// Keys of a part, for a row that sees these.
__device__ __forceinline__ u32 split_keys(const Seen& seen, const CudaAttentionParams& params) {
  const u32 tiles = (seen.last + 1 - seen.first + KEYS - 1) / KEYS;
  return (tiles + params.splits - 1) / params.splits * KEYS;
}

// Whether blocks of eight columns are so few, for all rows and these keys of each, that the device has them at once. Then
// keys are not worth sharing: a block of fewer columns is done earlier.
__device__ __forceinline__ bool apart(const Seen& seen, u32 count, const CudaAttentionParams& params) {
  const u32 parts = (seen.last + 1 - seen.first + KEYS - 1) / KEYS;
  return min(parts, params.splits) * params.kv_heads * ((count * params.group + 7) / 8) <= params.resident;
}

// What a block does at once: the rows from `row` on with the queries of a key head, and part `part` of the keys, whose parts have
// `keys` each. What the first row sees begins in part `first`, and what the last sees ends in part `last`. Without rows there is
// nothing to do.
struct Work {
  u32 row, count, head, keys, part, first, last;
};

// Work `number` of all that a step of `all` rows has: the heads of a part come first, then the parts of rows that share their
// keys, then other rows. All lanes call it.
__device__ __forceinline__ Work work_of(const RowInfo* rows, u32 all, u32 number, const CudaAttentionParams& params) {
  const u32 lane = thread_anew() % 32, head = number % params.kv_heads;
  u32 left = number / params.kv_heads;
#pragma unroll 1
  for (u32 start = 0; start < all; start += 32) {
    const bool there = start + lane < all;
    const RowInfo info = rows[there ? start + lane : start];
    const Seen sees = seen_by(info, params.window, params.reach);
    const u32 keys = split_keys(sees, params);
    const bool alone = apart(sees, all, params);
    const u32 slot = __shfl_up_sync(~0u, info.slot, 1), position = __shfl_up_sync(~0u, info.position, 1);
    const u32 before_keys = __shfl_up_sync(~0u, keys, 1), before_alone = __shfl_up_sync(~0u, u32(alone), 1);
    const bool alike = before_keys == keys && before_alone == u32(alone);
    const u32 joins = __ballot_sync(~0u, lane > 0 && there && alike && slot == info.slot && position + 1 == info.position);
    // Rows that join the one before them, in groups of as many as a block takes.
    const u32 most = alone ? max(8 / params.group, 1u) : params.tile_rows, run = 31 - __clz(~joins & (2u << lane) - 1);
    const bool leads = there && (lane - run) % most == 0;
    const u32 count = min(u32(__ffs(~(joins >> lane >> 1))), most);
    const u32 last = __shfl_sync(~0u, sees.last, min(lane + count - 1, 31u));
    const u32 parts = leads ? last / keys - sees.first / keys + 1 : 0;
    u32 end = parts;
#pragma unroll
    for (u32 reach = 1; reach < 32; reach *= 2) {
      const u32 before = __shfl_up_sync(~0u, end, reach);
      end += lane >= reach ? before : 0;
    }
    const u32 found = __ballot_sync(~0u, left < end);
    if (found) {
      const u32 which = __ffs(found) - 1;
      const u32 of_keys = __shfl_sync(~0u, keys, which), first = __shfl_sync(~0u, sees.first, which) / of_keys;
      const u32 part = first + left - __shfl_sync(~0u, end - parts, which);
      return {start + which, __shfl_sync(~0u, count, which), head, of_keys, part, first, __shfl_sync(~0u, last, which) / of_keys};
    }
    left -= __shfl_sync(~0u, end, 31);
  }
  return {};
}

// That of a block for the only row.
__device__ __forceinline__ Work work_alone(const RowInfo* rows, const CudaAttentionParams& params) {
  const Seen sees = seen_by(rows[0], params.window, params.reach);
  const u32 keys = split_keys(sees, params), first = sees.first / keys;
  return {0, 1, blockIdx.x, keys, first + blockIdx.y, first, sees.last / keys};
}
