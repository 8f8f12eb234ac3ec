// Products of 128 rows of a weight with 128 columns of prepared activations: a block of eight warps, all of their columns.
//
// Both sides are halves: values of weights are rounded to 11 bits. A warp takes 32 rows of the weight and 64 columns.
// Weights and activations come through shared memory a chunk of 64 columns at a time, a few chunks ahead. Sums are in the
// order of the columns, for any number of rows.
#pragma once

#include "common/copy.cuh"
#include "common/takes.cuh"
#include "common/head.cuh"
#include "common/prepare.cuh"
#include "common/weights.cuh"

constexpr u32 TILE_COLUMNS = 128;  // rows of activations

// The shared memory of a block: stages of codes, of activations, and scales of two blocks of 256 columns.
template <class W>
struct TileMemory {
  static constexpr int CODES = 8 * 128 * W::BITS, EXTRA = 8 * 128 * W::EXTRA;
  static constexpr int HALVES = 8 * Head<W>::CHUNK;
  static constexpr int PARTS = 16384;
  static constexpr int STAGE = CODES + EXTRA + HALVES + PARTS;
  static constexpr int HEAD = 8 * (Head<W>::BLOCK + Head<W>::DELTAS);
  // Within the 99 KiB that a block may have on every GPU from Ampere on.
  static constexpr int DEPTH = STAGE * 4 + HEAD * 2 <= 98304 ? 4 : STAGE * 3 + HEAD * 2 <= 98304 ? 3 : 2;
  static constexpr int BYTES = DEPTH * STAGE + 2 * HEAD;
};

// What a block multiplies.
struct TileWork {
  size_t tile;         // first of its eight tiles of 16 rows, from the first of all experts
  u32 tiles;           // how many of them are there
  const u32* columns;  // shared: for each column of the B operand where it starts, in units of 16 bytes
  const u32* rows;     // shared: the row of activations of each column
};


// Starts the copies of chunk `chunk`, and of the scales of its block if it is the block's first.
template <class W>
__device__ __forceinline__ void copy_chunk(u8* memory, const WeightView& w, const Prepared& x, const TileWork& work, u32 chunk) {
  using M = TileMemory<W>;
  const u32 thread = threadIdx.x;
  u8* stage = memory + chunk % M::DEPTH * M::STAGE;
  // A plane of the eight tiles: `bytes` of a tile and chunk. Tiles that are not there are those of the last one.
  const auto plane = [&](u8* to, const u8* from, u32 bytes, size_t stride, size_t at) {
    for (u32 i = thread * 16; i < 8 * bytes; i += 256 * 16) {
      const u32 tile = ::min(i / bytes, work.tiles - 1);
      copy16(to + i, from + (work.tile + tile) * stride + at + i % bytes);
    }
  };
  plane(stage, w.codes, 128 * W::BITS, size_t(w.chunks) * (128 * W::BITS), size_t(chunk) * (128 * W::BITS));
  if constexpr (W::EXTRA != 0)
    plane(stage + M::CODES, w.extra, 128 * W::EXTRA, size_t(w.chunks) * (128 * W::EXTRA), size_t(chunk) * (128 * W::EXTRA));
  if constexpr (M::HALVES != 0)
    plane(stage + M::CODES + M::EXTRA, w.scales, Head<W>::CHUNK, size_t(w.chunks) * Head<W>::CHUNK, size_t(chunk) * Head<W>::CHUNK);
  if constexpr (M::HEAD != 0) {
    if (chunk % 4 == 0) {
      u8* head = memory + M::DEPTH * M::STAGE + chunk / 4 % 2 * M::HEAD;
      plane(head, w.scales, Head<W>::BLOCK, size_t(w.chunks / 4) * Head<W>::BLOCK, size_t(chunk / 4) * Head<W>::BLOCK);
      if constexpr (Head<W>::DELTAS != 0)
        plane(head + 8 * Head<W>::BLOCK, w.deltas, Head<W>::DELTAS, size_t(w.chunks / 4) * Head<W>::DELTAS, size_t(chunk / 4) * Head<W>::DELTAS);
    }
  }
  u8* parts = stage + M::STAGE - M::PARTS;
#pragma unroll
  for (u32 k = 0; k < 4; k++) {
    // [tiles of 8 columns][2 groups][8 columns][4 t] pieces of 16 bytes.
    const u32 i = thread + 256 * k, column = i / 64 * 8 + i / 4 % 8, group = i / 32 % 2;
    copy16(parts + i * 16, x.base + (size_t(work.columns[column]) + (2 * chunk + group) * 32 + i % 4) * 16);
  }
}

// What a warp sums up: of its two tiles of the weight and eight tiles of columns, values as `mma` leaves them.
struct TileSums {
  float at[2][8][4];
};

// Scales are 2^6 times what they are, so that small ones stay normal halves and weights up to 1023 finite; the sums are
// divided at the end.
constexpr float TILE_UNIT = 64.f;

__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Bytes of codes (of rows g and g + 8, 16 columns) as the values they stand for, in the registers of a product of halves.
// 1024 + byte is a half whose lowest bits are the byte, a signed one with its highest bit turned; steps of a half there are 1.
template <class W>
__device__ __forceinline__ void values(u32 g, u32 above, u32 (&a)[4], const u32 (&scale)[2], const u32 (&min)[2]) {
  constexpr u32 one = twice(W::SIGNED ? 0x6480u : 0x6400u), left = twice(W::SIGNED ? 0xe480u : 0xe400u);
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const u32 bytes = (r / 2 ? (r % 2 ? above : g) >> 8 : r % 2 ? above : g) & 0x00ff00ffu;
    a[r] = fma2(add2(bytes ^ one, left), scale[r % 2], min[r % 2]);
  }
}

// The product of eight tiles of rows of `w` with 128 columns.
template <class W>
__device__ __forceinline__ TileSums tile_product(u8* memory, const WeightView& w, const Prepared& x, const TileWork& work) {
  using M = TileMemory<W>;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 first_tile = warp % 4 * 2, first_column = warp / 4 * 64;
  TileSums sums = {};
  for (u32 i = 0; i + 1 < M::DEPTH; i++) {
    if (i < w.chunks) copy_chunk<W>(memory, w, x, work, i);
    copies_end();
  }
#pragma unroll 1
  for (u32 block = 0; 4 * block < w.chunks; block++) {
    Head<W> head[2];
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const u32 chunk = 4 * block + c;
      if (W::PARTIAL && chunk >= w.chunks) break;
      copies_wait<M::DEPTH - 2>();
      __syncthreads();
      if (chunk + M::DEPTH - 1 < w.chunks) copy_chunk<W>(memory, w, x, work, chunk + M::DEPTH - 1);
      copies_end();
      const u8* stage = memory + chunk % M::DEPTH * M::STAGE;
      const u8* heads = memory + M::DEPTH * M::STAGE + block % 2 * M::HEAD;
#pragma unroll
      for (int mt = 0; mt < 2; mt++) {
        const u32 tile = first_tile + mt;
        if (c == 0) head[mt].block(heads + tile * Head<W>::BLOCK, heads + 8 * Head<W>::BLOCK + tile * Head<W>::DELTAS);
        head[mt].chunk(stage + M::CODES + M::EXTRA + tile * Head<W>::CHUNK, 0);
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        uint4 b[8];
#pragma unroll
        for (int nt = 0; nt < 8; nt++)
          b[nt] = reinterpret_cast<const uint4*>(stage + M::STAGE - M::PARTS)[((first_column / 8 + nt) * 2 + h) * 32 + lane];
#pragma unroll
        for (int mt = 0; mt < 2; mt++) {
          u32 codes[W::BITS], extra[W::EXTRA ? W::EXTRA : 1];
          const u32* from = reinterpret_cast<const u32*>(stage) + ((first_tile + mt) * 32 + lane) * W::BITS;
          const u32* above = reinterpret_cast<const u32*>(stage + M::CODES) + ((first_tile + mt) * 32 + lane) * W::EXTRA;
#pragma unroll
          for (int i = 0; i < W::BITS; i++) codes[i] = from[i];
#pragma unroll
          for (int i = 0; i < W::EXTRA; i++) extra[i] = above[i];
          u32 bytes[4];
          if constexpr (W::SCALES != ROW) bytes_of_codes<W>(codes, extra, h, bytes);
#pragma unroll
          for (int i = 0; i < 2; i++) {
            u32 a[4];
            if constexpr (W::SCALES == ROW) fragment<W>(codes, 2 * h + i, a);
            if constexpr (W::SCALES != ROW) {
              const int j = W::GROUP == 16 ? (2 * c + h) * 2 + i : 2 * c + h;
              u32 scale[2], min[2];
#pragma unroll
              for (int k = 0; k < 2; k++) {
                const float s = head[mt].scale(j, k) * (head[mt].factor(k) * TILE_UNIT);
                scale[k] = halves_of(s, s);
                float m = 0.f;
                if constexpr (W::SCALES == HALF_MIN) m = head[mt].min(j, k) * TILE_UNIT;
                if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) m = -head[mt].min_of(j, k) * TILE_UNIT;
                min[k] = halves_of(m, m);
              }
              values<W>(bytes[2 * i], bytes[2 * i + 1], a, scale, min);
            }
#pragma unroll
            for (int nt = 0; nt < 8; nt++) mma(sums.at[mt][nt], a, i ? b[nt].z : b[nt].x, i ? b[nt].w : b[nt].y);
            if constexpr (W::BITS == 32) {
              fragment<W>(codes + 16, 2 * h + i, a);
              // 2^-11 of what the first halves left out, which the rounding of x drowns: added where it is not.
#pragma unroll
              for (int r = 0; r < 4; r++) a[r] = fma2(a[r], twice(0x1000u), 0u);
#pragma unroll
              for (int nt = 0; nt < 8; nt++) mma(sums.at[mt][nt], a, i ? b[nt].z : b[nt].x, i ? b[nt].w : b[nt].y);
            }
          }
        }
      }
    }
  }
  // The scales of both sides. All blocks of a row have one here.
#pragma unroll
  for (int mt = 0; mt < 2; mt++) {
    const u32 tile = (W::SCALES == ROW) ? ::min(first_tile + mt, work.tiles - 1) : 0;
    const float* rows = reinterpret_cast<const float*>(w.scales) + (work.tile + tile) * 16 + lane / 4;
    const float of_row[2] = {W::SCALES == ROW ? rows[0] : 1.f / TILE_UNIT, W::SCALES == ROW ? rows[8] : 1.f / TILE_UNIT};
#pragma unroll
    for (int nt = 0; nt < 8; nt++) {
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const u32 row = work.rows[first_column + 8 * nt + 2 * (lane % 4) + k % 2];
        sums.at[mt][nt][k] *= of_row[k / 2] * __ldg(x.scales() + size_t(row) * x.blocks);
      }
    }
  }
  return sums;
}
