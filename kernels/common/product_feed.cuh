// How operands of products of few rows come to where lanes read them: product.cuh says what for.
#pragma once

#include "common/copy.cuh"
#include "common/takes.cuh"
#include "common/head.cuh"
#include "common/prepare.cuh"
#include "common/weights.cuh"

// Rows of activations in a tile.
template <class W>
constexpr int ROWS = W::SCALES == ROW ? 4 : 8 / DIGITS;

// Rows of a tile that lane (g, t) feeds with column g of the B operand, and whose sums it takes out, columns 2 t and 2 t + 1.
template <class W>
__device__ __forceinline__ u32 fed_row() { return threadIdx.x % 32 / 4 / (8 / ROWS<W>); }
template <class W>
__device__ __forceinline__ u32 taken_row() { return threadIdx.x % 4 / (4 / ROWS<W>); }

// Row `of_tile` of tile `nt`, of up to MOST rows in shared memory. Of a tile with fewer the last one stands for others too.
template <class W, int MOST>
__device__ __forceinline__ const Digits& digits_of(const Digits* x, int nt, u32 of_tile) {
  return x[MOST < ROWS<W> ? min(of_tile, u32(MOST - 1)) : ROWS<W> * nt + of_tile];
}

// A factor of the rows that lanes feed, for the rows that they take.
template <class W>
__device__ __forceinline__ float taken(float of_fed) { return __shfl_sync(~0u, of_fed, taken_row<W>() * (32 / ROWS<W>)); }

// Bytes of a row in a stage: a block as bytes, or a chunk as halves and the scale of its block.
template <class W>
constexpr int ROW_BYTES = W::SCALES == ROW ? 256 + 16 : int(sizeof(Digits));

// Copies steps of up to MOST rows into a ring that the block of threads shares. Columns of the B operand know nothing of one
// another: where there is no row the ring holds anything, and nobody looks at what comes of it. Rows that are in shared memory
// (HERE) are copied at once.
template <class W, int MOST, bool HERE = false>
struct RowFeed {
  static constexpr bool HALVES = W::SCALES == ROW;
  static constexpr int PIECES = ROW_BYTES<W> / 16, EACH = (MOST * PIECES + 127) / 128;

  const u8* from[EACH];  // the thread's pieces of 16 bytes of step 0
  bool there[EACH];

  // `row_of(k)` is the row of `x` that is row k of `count`, or anything where there is no such row.
  template <class RowOf>
  __device__ __forceinline__ RowFeed(const Prepared& x, u32 count, const RowOf& row_of) {
#pragma unroll
    for (int k = 0; k < EACH; k++) {
      const u32 piece = threadIdx.x + 128 * k, row = piece / PIECES;
      there[k] = row < count;
      const u32 of = row_of(row);
      from[k] = reinterpret_cast<const u8*>(x.digits(of)) + piece % PIECES * 16;
      if (HALVES) from[k] = reinterpret_cast<const u8*>(x.halves_of(of)) + piece % PIECES * 16;
      if (is_scale(piece)) from[k] = reinterpret_cast<const u8*>(&x.digits(of)->scale);
      keep(from[k]);
    }
  }
  static __device__ __forceinline__ bool is_scale(u32 piece) { return HALVES && piece % PIECES == PIECES - 1; }

  // Begins to copy a step to shared memory at `to`, or does nothing.
  __device__ __forceinline__ void bring(u32 to, u32 step, bool any) const {
#pragma unroll
    for (int k = 0; k < EACH; k++) {
      const u32 piece = threadIdx.x + 128 * k;
      u64 at = u64(step) * (HALVES ? sizeof(Halves) / 4 : sizeof(Digits));
      if (is_scale(piece)) at = u64(step / 4) * sizeof(Digits);
      if constexpr (HERE) {
        if (any && there[k]) put16(to + piece * 16, *reinterpret_cast<const uint4*>(from[k] + at));
      } else {
        copy16_when(to + piece * 16, from[k] + at, any && there[k]);
      }
    }
  }
};

// A row's only step, which is in the ring's first stage already.
struct RowsInPlace {
  __device__ __forceinline__ void bring(u32, u32, bool) const {}
};

// A step of a warp: a block of 256 columns, or a chunk of 64 where values are halves or floats.
template <class W>
struct Stage {
  static constexpr int CHUNKS = W::SCALES == ROW ? 1 : 4;
  static constexpr int CODES = CHUNKS * 128 * W::BITS, EXTRA = CHUNKS * 128 * W::EXTRA;
  static constexpr int SCALES = 4 * Head<W>::CHUNK + Head<W>::BLOCK, DELTAS = Head<W>::DELTAS;
  static constexpr int BYTES = CODES + EXTRA + SCALES + DELTAS;
  const u8* at;

  // The lane's words of chunk `c`.
  template <int WORDS>
  __device__ __forceinline__ void words(u32 (&to)[WORDS], int plane, int c) const {
    const u8* from = at + plane + (c * 32 + threadIdx.x % 32) * (4 * WORDS);
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
      for (int i = 0; i < WORDS / 4; i++) {
        const uint4 v = reinterpret_cast<const uint4*>(from)[i];
        to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < WORDS; i++) to[i] = reinterpret_cast<const u32*>(from)[i];
    }
  }

  __device__ __forceinline__ const u8* scales() const { return at + CODES + EXTRA; }
  __device__ __forceinline__ const u8* deltas() const { return at + CODES + EXTRA + SCALES; }
};

// Whether a multiprocessor has more than 100 KB of shared memory.
#if __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 870 || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200)
constexpr bool LARGE_SHARED = true;
#else
constexpr bool LARGE_SHARED = false;
#endif

// The shared memory of a block of four warps for up to MOST rows: a ring of weights for each, and one of activations. Where
// rows are ONE_BLOCK of 256 columns, rings have no more stages than that takes, and behind them is room for rows with halves.
template <class W, int MOST, bool IS_LONG, bool ONE_BLOCK = false>
struct ProductMemory {
  static constexpr int ROWS_BYTES = MOST * ROW_BYTES<W>;
  static constexpr int STAGE = 4 * Stage<W>::BYTES + ROWS_BYTES;
  // Two blocks have room where a multiprocessor has 100 KB (sm_86, sm_89, sm_120); where it has more, as many as registers
  // allow. More stages than blocks would not pay: what is under way counts, and whether all blocks run at once. Blocks of long
  // launches are as large with any number of rows, so that as many are there at once.
  static constexpr int OF_16 = LARGE_SHARED ? 76288 : 50176;
  static constexpr int OF_8 = LARGE_SHARED ? 57088 : OF_16;
  static constexpr int MOST_BYTES = IS_LONG || MOST > 8 ? OF_16 : MOST > 4 ? OF_8 : MOST > 1 ? 48128 : 42496;
  // Steps of halves are short.
  static constexpr int OF_BLOCK = W::SCALES == ROW ? 4 : 2;
  static constexpr int STAGES = ONE_BLOCK ? OF_BLOCK : IS_LONG || W::SCALES == ROW ? 6 : 4, FIT = MOST_BYTES / STAGE;
  static constexpr int DEPTH = FIT > STAGES ? STAGES : FIT > 2 ? FIT : 2;
  static constexpr int ROOM = ONE_BLOCK && W::SCALES == ROW ? MOST * (sizeof(Digits) + sizeof(Halves)) : 0;
  static constexpr int BYTES = DEPTH * STAGE + ROOM;
};

// Copies steps of a tile.
template <class W>
struct Feed {
  using S = Stage<W>;
  const u8 *codes, *extra, *scales, *deltas;  // of step 0, at the lane's first bytes
  u32 chunks;                                 // of the row

  // Turns to a tile, which counts from the first of all experts.
  __device__ __forceinline__ void aim(const WeightView& w, size_t tile) {
    const u32 lane = threadIdx.x % 32 * 16;
    const size_t chunk = tile * w.chunks;
    codes = w.codes + chunk * (128 * W::BITS) + lane;
    extra = w.extra + chunk * (128 * W::EXTRA) + lane;
    scales = w.scales + chunk * (S::SCALES / 4) + lane;
    deltas = w.deltas + chunk * (S::DELTAS / 4) + lane;
    chunks = w.chunks;
    keep(codes);
    if constexpr (S::EXTRA != 0) keep(extra);
    if constexpr (S::SCALES != 0) keep(scales);
    if constexpr (S::DELTAS != 0) keep(deltas);
  }

  // The first `count` of at most `MOST` bytes of a plane.
  template <int MOST>
  static __device__ __forceinline__ void plane(u32 to, const u8* from, u32 step, u32 count, bool any) {
    from += u64(step) * MOST;
#pragma unroll
    for (int i = 0; i < (MOST + 511) / 512; i++) {
      const bool there = (!W::PARTIAL && MOST % 512 == 0) || i * 512 + threadIdx.x % 32 * 16 < count;
      copy16_when(to + i * 512, from + i * 512, any && there);
    }
  }

  // Begins to copy a step to shared memory, to where the lane's first bytes are at `to`, or does nothing.
  __device__ __forceinline__ void bring(u32 to, u32 step, bool any) const {
    const u32 count = W::PARTIAL ? min(u32(S::CHUNKS), chunks - S::CHUNKS * step) : S::CHUNKS;
    plane<S::CODES>(to, codes, step, count * (128 * W::BITS), any);
    if constexpr (S::EXTRA != 0) plane<S::EXTRA>(to + S::CODES, extra, step, count * (128 * W::EXTRA), any);
    if constexpr (S::SCALES != 0) plane<S::SCALES>(to + S::CODES + S::EXTRA, scales, step, count * (S::SCALES / 4), any);
    if constexpr (S::DELTAS != 0) plane<S::DELTAS>(to + S::CODES + S::EXTRA + S::SCALES, deltas, step, S::DELTAS, any);
  }
};
