// Products of 16 rows of a weight with a few prepared rows of activations: one warp, a range of blocks of 256 columns.
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
// registers. The four warps of a block, each with 16 rows of the weight, share the bytes of the activations, in a ring too:
// each reading its own would bring more of them through the second-level cache than of weights.
#pragma once

#include "common/product_sums.cuh"

// The products of a tile of the weight with up to MOST rows, over a range of its steps. Copies of weights begin at once;
// what is multiplied with them may come into being until `finish`. All warps of a block call both together, also one that
// has no tile.
template <class W, int MOST>
struct Product {
  using M = ProductMemory<W, MOST>;
  static constexpr int NT = MOST > ROWS<W> ? MOST / ROWS<W> : 1;
  static constexpr int CHUNKS = Stage<W>::CHUNKS, DEPTH = M::DEPTH, BYTES = Stage<W>::BYTES;
  u8 *ring, *rows;  // the warp's weights, and the activations of all warps
  bool there;
  u32 first, end;
  Feed<W> feed;

  // `tile` counts from the first of all experts.
  __device__ __forceinline__ Product(u8* memory, const WeightView& w, size_t tile, bool there, u32 first, u32 end)
      : ring(memory + threadIdx.x / 32 * (DEPTH * BYTES)), rows(memory + 4 * DEPTH * BYTES), there(there), first(first),
        end(end), feed(ring, DEPTH, w, tile, first) {
    for (u32 i = 0; i < DEPTH - 1; i++) {
      if (there && first + i < end) feed.next();
      copies_end();
    }
  }

  // `row_of(k)` is the row of `x` that is row k of `count`.
  template <class RowOf>
  __device__ __forceinline__ Sums<NT> finish(const WeightView& w, size_t tile, const Prepared& x, u32 count,
                                             const RowOf& row_of) {
    Sums<NT> sums = {};
    Stage<W> stage = {ring};
    if constexpr (W::SCALES == ROW) {
      const HalfRows<W, NT> halves(x, count, row_of);
#pragma unroll 1
      for (u32 step = first; step < end; step++) {
        copies_wait<DEPTH - 2>();
        __syncwarp();  // what other lanes copied is there, and all are done with the stage that is copied to next
        if (there && step + DEPTH - 1 < end) feed.next();
        copies_end();
        if (there) add_halves<W, NT>(stage, step, halves, sums);
        stage.at += BYTES;
        if (stage.at == ring + DEPTH * BYTES) stage.at = ring;
      }
      const float* scales = reinterpret_cast<const float*>(w.scales) + tile * 16 + threadIdx.x % 32 / 4;
      for (int nt = 0; nt < NT; nt++) sums.g[nt] *= scales[0], sums.above[nt] *= scales[8];
    } else {
      RowFeed<MOST> row_feed(x, first, count, row_of);
      u8 *to = rows, *from = rows;
      const auto turn = [&](u8*& at) { at = at + M::ROW_BYTES == rows + DEPTH * M::ROW_BYTES ? rows : at + M::ROW_BYTES; };
      for (u32 i = 0; i < DEPTH - 1; i++) {
        if (first + i < end) row_feed.next(to);
        turn(to);
        copies_end();
      }
#pragma unroll 1
      for (u32 step = first; step < end; step++) {
        copies_wait<DEPTH - 2>();
        __syncthreads();  // what others copied is there, and all are done with the stages that are copied to next
        if (step + DEPTH - 1 < end) {
          if (there) feed.next();
          row_feed.next(to);
        }
        turn(to);
        copies_end();
        if (there) {
          const u32 chunks = w.chunks - CHUNKS * step;
          const Digits* x_rows = reinterpret_cast<const Digits*>(from);
          add_codes<W, MOST, 0, NT < AT_ONCE ? NT : AT_ONCE>(stage, chunks, x_rows, sums);
          if constexpr (NT > AT_ONCE) {
            __syncwarp();
            add_codes<W, MOST, AT_ONCE, NT>(stage, chunks, x_rows, sums);
          }
        }
        turn(from);
        stage.at += BYTES;
        if (stage.at == ring + DEPTH * BYTES) stage.at = ring;
      }
    }
    return sums;
  }
};

// Steps of a row of `w`.
template <class W>
__device__ __forceinline__ u32 steps_of(const WeightView& w) {
  return (w.chunks + Stage<W>::CHUNKS - 1) / Stage<W>::CHUNKS;
}
