// Products of 16 rows of a weight with a few prepared rows of activations: one warp, a range of blocks of 256 columns, or the
// end of one tile's and the beginning of the next one's.
//
// The order of a row's sums is that of the columns: groups of 16 or 32 inside `mma`, then groups of a block, then blocks.
// It is the same for every row and every number of them.
//
// Codes meet the bytes of a value in products of integers, a byte a column of the B operand, so a tile has four rows, or two
// of four bytes a value. Nothing is rounded before the sum of a group, or, where its factors are whole numbers, of a block: below
// 2^30 all of them.
// Weights that are halves meet two halves of a value, and a tile has four rows.
//
// A warp copies its weights to shared memory a few blocks ahead, in a ring of its own, so that what is on its way takes no
// registers. The four warps of a block, each with 16 rows of the weight, share the activations, in a ring too: each reading its
// own would bring more of them through the second-level cache than of weights, and reading them where they are needed would
// wait for that cache at every step.
#pragma once

#include "common/product_sums.cuh"

// What a warp has of a group of tiles: a tile, which counts from the first of all experts, or none.
struct Tile {
  WeightView w;
  size_t tile;
  bool there;
};

// What a block does: `count` steps, the first of them step `step` of group `group`. A group has `steps`, and behind its last
// comes the first of the next group.
struct Share {
  u32 steps, group, step, count;
};

// The products of tiles of weights with up to MOST rows. A group is four tiles, one for each warp: `tile_of(group)`. Copies of
// weights begin at once; what is multiplied with them may come into being until `finish`. All warps of a block call both
// together, also one that has no tile.
//
// Steps of most launches are few, and a warp has little company: instructions between the wait for the kernel in front and the
// last value take as long as memory does. Hence copies without branches, and addresses that are one multiplication.
template <class W, int MOST, bool IS_LONG, class TileOf, bool ONE_BLOCK = false>
struct Product {
  using M = ProductMemory<W, MOST, IS_LONG, ONE_BLOCK>;
  static constexpr int NT = MOST > ROWS<W> ? MOST / ROWS<W> : 1;
  static constexpr int CHUNKS = Stage<W>::CHUNKS, DEPTH = M::DEPTH, BYTES = Stage<W>::BYTES;
  u8 *ring, *rows;  // the warp's weights, and the activations of all warps
  const Share share;
  const TileOf& tile_of;
  // What is copied next: a step of a group, whether the warp has a tile of that, and how many steps are left.
  u32 step, group, left;
  bool there;
  Feed<W> feed;

  __device__ __forceinline__ Product(u8* memory, const Share& share, const TileOf& tile_of)
      : ring(memory + threadIdx.x / 32 * (DEPTH * BYTES)), rows(memory + 4 * DEPTH * BYTES), share(share), tile_of(tile_of),
        step(share.step), group(share.group), left(share.count) {
    aim();
#pragma unroll
    for (u32 stage = 0; stage < DEPTH - 1; stage++) {
      bring(stage);
      copies_end();
    }
  }

  // Behind the rings: `ProductMemory::ROOM`.
  __device__ __forceinline__ u8* room() const { return rows + DEPTH * M::ROWS_BYTES; }

  __device__ __forceinline__ void aim() {
    const Tile tile = tile_of(group);
    there = tile.there;
    feed.aim(tile.w, tile.tile);
  }

  // Begins to copy the next step, if there is one, and turns to the one behind it.
  __device__ __forceinline__ void bring(u32 stage) {
    feed.bring(shared_address(ring) + threadIdx.x % 32 * 16 + stage * BYTES, step, there && left > 0);
    left -= left > 0;
    if (++step == share.steps && IS_LONG) step = 0, group++, aim();
  }

  // Of the stages of both rings, the one behind `stage`.
  static __device__ __forceinline__ u32 behind(u32 stage) { return stage + 1 == DEPTH ? 0 : stage + 1; }

  // `row_feed` brings rows. `done(tile, group, sums, whole)` is told the sums over what the block has of a group, and whether
  // that goes to its end.
  template <class Rows, class Done>
  __device__ __forceinline__ void finish(const Rows& row_feed, const Done& done) {
    const u32 rows_at = shared_address(rows);
    u32 now = share.step;
#pragma unroll
    for (u32 stage = 0; stage < DEPTH - 1; stage++) {
      row_feed.bring(rows_at + stage * M::ROWS_BYTES, now, stage < share.count);
      copies_end();
      if (++now == share.steps && IS_LONG) now = 0;
    }
    Sums<NT> sums = {};
    u32 of = share.group;
    Tile tile = tile_of(of);
    now = share.step;
    u32 put = DEPTH - 1, get = 0;
#pragma unroll 1
    for (u32 togo = share.count; togo > 0; togo--) {
      copies_wait<DEPTH - 2>();
      __syncthreads();  // what others copied is there, and all are done with the stages that are copied to next
      row_feed.bring(rows_at + put * M::ROWS_BYTES, step, left > 0);
      bring(put);
      copies_end();
      put = behind(put);
      if (tile.there) add({ring + get * BYTES}, rows + get * M::ROWS_BYTES, tile.w.chunks - CHUNKS * now, sums);
      get = behind(get);
      now++;
      if (!IS_LONG || (now < share.steps && togo > 1)) continue;
      end(tile, of, sums, now == share.steps, done);
      sums = {};
      now = 0;
      tile = tile_of(++of);
    }
    if (!IS_LONG) end(tile, of, sums, now == share.steps, done);
  }

  // Adds a step, of which `chunks` or more are there.
  static __device__ __forceinline__ void add(const Stage<W>& stage, const u8* rows, u32 chunks, Sums<NT>& sums) {
    if constexpr (W::SCALES == ROW) {
      add_halves<W, MOST, NT>(stage, rows, sums);
    } else {
      const Digits* x = reinterpret_cast<const Digits*>(rows);
      add_codes<W, MOST, 0, NT < AT_ONCE ? NT : AT_ONCE>(stage, chunks, x, sums);
      if constexpr (NT > AT_ONCE) {
        __syncwarp();
        add_codes<W, MOST, AT_ONCE, NT>(stage, chunks, x, sums);
      }
    }
  }

  template <class Done>
  static __device__ __forceinline__ void end(const Tile& tile, u32 group, Sums<NT>& sums, bool whole, const Done& done) {
    if (!tile.there) return;
    if constexpr (W::SCALES == ROW) {
      const float* scales = reinterpret_cast<const float*>(tile.w.scales) + tile.tile * 16 + threadIdx.x % 32 / 4;
      for (int nt = 0; nt < NT; nt++) sums.g[nt] *= scales[0], sums.above[nt] *= scales[8];
    }
    done(tile, group, sums, whole);
  }
};

// Steps of a row of `w`.
template <class W>
__device__ __forceinline__ u32 steps_of(const WeightView& w) {
  return (w.chunks + Stage<W>::CHUNKS - 1) / Stage<W>::CHUNKS;
}
