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
template <class W, int MOST, bool IS_LONG, class TileOf>
struct Product {
  using M = ProductMemory<W, MOST, IS_LONG>;
  static constexpr int NT = MOST > ROWS<W> ? MOST / ROWS<W> : 1;
  static constexpr int CHUNKS = Stage<W>::CHUNKS, DEPTH = M::DEPTH, BYTES = Stage<W>::BYTES;
  u8 *ring, *rows;  // the warp's weights, and the activations of all warps
  const Share share;
  const TileOf& tile_of;
  // What is copied next: its group, whether the warp has a tile of that, and how many steps are left of the group and of all.
  u32 group;
  bool there;
  u32 left, all_left;
  Feed<W> feed;

  __device__ __forceinline__ Product(u8* memory, const Share& share, const TileOf& tile_of)
      : ring(memory + threadIdx.x / 32 * (DEPTH * BYTES)), rows(memory + 4 * DEPTH * BYTES), share(share), tile_of(tile_of),
        group(share.group), all_left(share.count), feed(ring, DEPTH) {
    aim(share.step);
    for (u32 i = 0; i < DEPTH - 1; i++) {
      if (all_left > 0) bring();
      copies_end();
    }
  }

  __device__ __forceinline__ void aim(u32 step) {
    const Tile tile = tile_of(group);
    there = tile.there;
    left = share.steps - step;
    feed.aim(tile.w, tile.tile, step);
  }

  // Begins to copy the next step.
  __device__ __forceinline__ void bring() {
    if (there) feed.next();
    all_left--, left--;
    if (IS_LONG && left == 0) group++, aim(0);
  }

  // `row_of(k)` is the row of `x` that is row k of `count`. `done(tile, group, sums, whole)` is told the sums over what the
  // block has of a group, and whether that goes to its end.
  template <class RowOf, class Done>
  __device__ __forceinline__ void finish(const Prepared& x, u32 count, const RowOf& row_of, const Done& done) {
    Sums<NT> sums = {};
    Stage<W> stage = {ring};
    u32 step = share.step, group = share.group;
    RowFeed<W, MOST> row_feed(x, step, share.steps, count, row_of);
    u8 *put = rows, *get = rows;
    const auto turn = [&](u8*& at) { at = at + M::ROWS_BYTES == rows + DEPTH * M::ROWS_BYTES ? rows : at + M::ROWS_BYTES; };
    for (u32 i = 0; i < DEPTH - 1; i++) {
      if (i < share.count) row_feed.next(put);
      turn(put);
      copies_end();
    }
    Tile tile = tile_of(group);
#pragma unroll 1
    for (u32 done_steps = 1; done_steps <= share.count; done_steps++) {
      copies_wait<DEPTH - 2>();
      __syncthreads();  // what others copied is there, and all are done with the stages that are copied to next
      if (all_left > 0) {
        bring();
        row_feed.next(put);
      }
      turn(put);
      copies_end();
      if (tile.there) {
        if constexpr (W::SCALES == ROW) {
          add_halves<W, MOST, NT>(stage, get, sums);
        } else {
          const u32 chunks = tile.w.chunks - CHUNKS * step;
          const Digits* x_rows = reinterpret_cast<const Digits*>(get);
          add_codes<W, MOST, 0, NT < AT_ONCE ? NT : AT_ONCE>(stage, chunks, x_rows, sums);
          if constexpr (NT > AT_ONCE) {
            __syncwarp();
            add_codes<W, MOST, AT_ONCE, NT>(stage, chunks, x_rows, sums);
          }
        }
      }
      turn(get);
      stage.at += BYTES;
      if (stage.at == ring + DEPTH * BYTES) stage.at = ring;
      if (++step < share.steps && done_steps < share.count) continue;
      if (tile.there) {
        if constexpr (W::SCALES == ROW) {
          const float* scales = reinterpret_cast<const float*>(tile.w.scales) + tile.tile * 16 + threadIdx.x % 32 / 4;
          for (int nt = 0; nt < NT; nt++) sums.g[nt] *= scales[0], sums.above[nt] *= scales[8];
        }
        done(tile, group, sums, step == share.steps);
      }
      if (!IS_LONG) break;
      sums = {};
      step = 0;
      tile = tile_of(++group);
    }
  }
};

// Steps of a row of `w`.
template <class W>
__device__ __forceinline__ u32 steps_of(const WeightView& w) {
  return (w.chunks + Stage<W>::CHUNKS - 1) / Stage<W>::CHUNKS;
}
