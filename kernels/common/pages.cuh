// Where the rows of the cache are.
//
// A pool is [pages][kv_heads] blocks of PAGE tokens of one head. A block holds the codes of its tokens, then, where the
// type has them, their scales, transposed:
//
//   codes   [PAGE tokens][dim] of KV_F32, KV_F16 as they are; KV_Q8_0 a byte a value; KV_Q4_0 16 bytes for 32 values,
//           as in a file; KV_TQ3_0 three words for 32 values, bit e of word b being bit b of the index of value e
//   scales  [dim / 32][PAGE tokens] halves; of KV_TQ3_0 every fourth is read
//
// backend-cuda/src/state/layout.rs converts from and to the layout of files, which has as many bytes.
#pragma once

#include "common/half.cuh"
#include "gen/abi.cuh"

// Bits of the code of a value.
__device__ __host__ constexpr u32 code_bits(u32 kind) {
  return kind == KV_F32 ? 32 : kind == KV_F16 ? 16 : kind == KV_Q8_0 ? 8 : kind == KV_Q4_0 ? 4 : 3;
}

// Bytes of the codes of a token, and of the block of a head in a page.
__device__ __host__ constexpr u32 code_bytes(u32 kind, u32 dim) { return dim * code_bits(kind) / 8; }
__device__ __host__ constexpr u32 head_bytes(u32 kind, u32 dim) {
  return PAGE * (code_bytes(kind, dim) + (kind >= KV_Q8_0 ? dim / 16 : 0));
}

// Page of logical page `page` in the table of a slot; `local` is 1 for the ring of local layers.
__device__ __forceinline__ u32 page_of(const u32* tables, u32 slot, u32 page, u32 local) {
  const u32* info = tables + 4 * slot + 2 * local;
  return tables[info[0] + page % info[1]];
}

// Block of a head in a page.
__device__ __forceinline__ size_t head_at(u32 page, u32 kv_heads, u32 head, u32 kind, u32 dim) {
  return (size_t(page) * kv_heads + head) * head_bytes(kind, dim);
}

// Largest logit of a query that has seen no key.
constexpr float LOWEST = -3.0e38f;

// The positions that a query sees.
struct Seen {
  u32 first, last;
};

// `reach` says where they end: 0 at the query's own, 1 at the one before, 2 at that of the last row that the step has of
// its sequence, but less than a window ahead.
__device__ __forceinline__ Seen seen_by(const RowInfo& info, u32 window, u32 reach) {
  const u32 position = info.position, first = position + 1 > window ? position + 1 - window : 0;
  if (reach == 1) return {first, position - min(position, 1u)};
  return {first, reach == 2 ? position + min(info.flags >> 8, window - 1) : position};
}
