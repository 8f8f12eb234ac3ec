// attention: sizes of a block and what it keeps about its columns. attend_logits.cuh says how it works.
//
// DIM, K_KIND, V_KIND and EXACT are macros of the unit.
#pragma once

#include "common/kv_read.cuh"

constexpr u32 WARPS = DIM / 64, THREADS = 32 * WARPS;
constexpr u32 KEYS = 16 * WARPS;  // of a tile
constexpr u32 RESIDENT = DIM == 512 ? 2 : 1;  // blocks of one row that a multiprocessor must have registers for
constexpr u32 NOTHING = ~0u;
constexpr float LOG2E = 1.44269504f;
constexpr u32 CHUNK = chunk_bytes(K_KIND) > chunk_bytes(V_KIND) ? chunk_bytes(K_KIND) : chunk_bytes(V_KIND);

// Chunks of a warp that are under way or in use, and tiles of eight columns: what 99 KB of shared memory have room for.
constexpr u32 MANY_TILES = DIM == 512 ? 2 : 4, MANY_STAGES = CHUNK >= 2048 ? 3 : CHUNK >= 1024 ? 6 : 8;
constexpr u32 ONE_STAGES = CHUNK >= 2048 ? 4 : MANY_STAGES;

// Weights are scaled by this, times the scale of a block if EXACT, so that their halves are precise: at most 1, times the
// largest scale that stands for values of f16's range.
__device__ __host__ constexpr float weight_scale() {
  if (!EXACT || V_KIND == KV_F16) return 32768.f;
  return V_KIND == KV_Q8_0 ? 64.f : V_KIND == KV_Q4_0 ? 4.f : 1.f;
}

// Logits as integers of the same order.
__device__ __forceinline__ int ordered(float x) {
  const int i = __float_as_int(x);
  return i ^ (i >> 31 & 0x7fffffff);
}
__device__ __forceinline__ float unordered(int i) { return __int_as_float(i ^ (i >> 31 & 0x7fffffff)); }

// Columns of a block, in shared memory. Largest logits are read in pairs: without its alignment, what else is in shared
// memory and the assembler's order of it would decide whether that is allowed.
template <u32 COLUMNS>
struct alignas(8) Columns {
  u32 query[COLUMNS];        // row * heads + head
  u32 slot[COLUMNS];         // NOTHING if there is no such query
  Seen seen[COLUMNS];        // keys that it sees
  u32 first[COLUMNS];        // those of them that are seen in this turn, none if first > last
  u32 last[COLUMNS];
  Seen inner;                // keys that all columns see: none where one has keys of another sequence
  int top[COLUMNS];          // largest logit so far
  int before[2][COLUMNS];    // what it was before a tile: of even and odd ones in turns
  u32 broken[COLUMNS];       // it saw a value that is no number
  float sums[WARPS][COLUMNS];
};

// The keys of one sequence that columns of the block see.
struct Turn {
  u32 slot, first, last;
};

// What is the same for all blocks.
struct Cache {
  const u8 *k, *v;
  const u32* tables;
  u32 kv_heads, local;
};
