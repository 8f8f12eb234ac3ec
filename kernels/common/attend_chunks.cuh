// attention, inner part of both classes: the way of keys and values to shared memory, in chunks of 16 keys by 64 values. A warp has
// a ring of its own: of a tile first all chunks of its 16 keys, then those of its 64 values. attend_logits.cuh says how a block
// works.
#pragma once

#include "common/attend_columns.cuh"

template <u32 STAGES>
struct Chunks {
  static constexpr u32 BEGUN = (STAGES - 2) / (2 * WARPS) + 1;  // tiles that the first copies reach

  u8* ring;                    // shared memory: chunks of this warp
  const Cache cache;
  const u32 head, warp;
  const Place at;
  // The next chunk to be copied: its tile, number in that, and where it comes from and goes to; and how many are left.
  u32 tile, step, left, put, slot, block;
  const u8 *codes, *scales;

  __device__ __forceinline__ Chunks(u8* rings, const Cache& cache, u32 head, u32 thread)
      : ring(rings + thread / 32 * STAGES * CHUNK), cache(cache), head(head), warp(thread / 32), at(thread % 32) {}

  // Turns to the keys of the next tile, or to its values.
  __device__ __forceinline__ void find_keys() {
    const u32 page = page_of(cache.tables, slot, tile * KEYS / PAGE, cache.local);
    block = page * cache.kv_heads + head;
    find<K_KIND>(cache.k, tile * KEYS % PAGE + 16 * warp, 0);
  }
  __device__ __forceinline__ void find_values() { find<V_KIND>(cache.v, tile * KEYS % PAGE, 64 * warp); }
  template <u32 KIND>
  __device__ __forceinline__ void find(const u8* pool, u32 token, u32 value) {
    const u8* of = pool + size_t(block) * head_bytes(KIND, DIM);
    codes = codes_at<KIND, DIM>(of, token, value, at.lane);
    scales = scales_at<KIND, DIM>(of, token, value, at.lane);
  }

  // Turns to the keys of a turn. Of its last tile only those values are copied that some column sees: others would meet weights
  // of 0.
  __device__ __forceinline__ void aim(const Turn& turn) {
    tile = turn.first / KEYS;
    left = (turn.last / KEYS - tile) * 2 * WARPS + WARPS + chunks_of(turn);
    step = put = 0;
    slot = turn.slot;
    find_keys();
  }
  static __device__ __forceinline__ u32 chunks_of(const Turn& turn) { return turn.last % KEYS / 16 + 1; }

  // Begins to copy the next chunk, if there is one: first all chunks of keys of a tile, then those of its values.
  __device__ __forceinline__ void feed() {
    if (left > 0) {
      left--;
      const u32 to = shared_address(ring) + put * CHUNK;
      if (step < WARPS) {
        copy_chunk<K_KIND, DIM>(to, codes, scales, at.lane);
        codes += 8 * code_bits(K_KIND);
        scales += K_KIND == KV_TQ3_0 ? step % 2 * (8 * PAGE) : 4 * PAGE;
        if (++step == WARPS) find_values();
      } else {
        copy_chunk<V_KIND, DIM>(to, codes, scales, at.lane);
        codes += 16 * code_bytes(V_KIND, DIM);
        scales += 32;
        if (++step == 2 * WARPS) step = 0, tile++;
        if (step == 0 && left > 0) find_keys();
      }
    }
    copies_end();
    put = put + 1 == STAGES ? 0 : put + 1;
  }

  // The next chunk. The place of the one before it is free from here on, for all lanes have read it: it is fed, and behind it lies
  // this one.
  __device__ __forceinline__ const u8* next() {
    copies_wait<STAGES - 2>();
    __syncwarp();
    feed();
    return ring + put * CHUNK;
  }
};
