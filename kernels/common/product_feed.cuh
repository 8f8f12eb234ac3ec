// How operands of products of few rows come to where lanes read them: product.cuh says what for.
#pragma once

#include "common/copy.cuh"
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

// Copies blocks of up to MOST rows, one after the other, into a ring that the block of threads shares. Columns of the B
// operand know nothing of one another: where there is no row the ring holds anything, and nobody looks at what comes of it.
template <int MOST>
struct RowFeed {
  static constexpr int PIECES = sizeof(Digits) / 16, EACH = (MOST * PIECES + 127) / 128;
  static constexpr u32 NOTHING = ~0u;

  const u8* from;  // the next block of row 0
  u32 at[EACH];    // from there to the thread's pieces of 16 bytes

  // `row_of(k)` is the row of `x` that is row k of `count`.
  template <class RowOf>
  __device__ __forceinline__ RowFeed(const Prepared& x, u32 block, u32 count, const RowOf& row_of)
      : from(reinterpret_cast<const u8*>(x.digits(0) + block)) {
#pragma unroll
    for (int k = 0; k < EACH; k++) {
      const u32 piece = threadIdx.x + 128 * k, row = piece / PIECES;
      at[k] = row < count ? row_of(row) * x.blocks * u32(sizeof(Digits)) + piece % PIECES * 16 : NOTHING;
    }
  }
  __device__ __forceinline__ void next(u8* to) {
#pragma unroll
    for (int k = 0; k < EACH; k++)
      if (at[k] != NOTHING) copy16(to + (threadIdx.x + 128 * k) * 16, from + at[k]);
    from += sizeof(Digits);
  }
};

// Rows as halves, which lanes read where they are.
template <class W, int NT>
struct HalfRows {
  const Digits* digits;
  const Halves* halves;
  u32 first[NT];  // block of the row that the lane feeds

  template <class RowOf>
  __device__ __forceinline__ HalfRows(const Prepared& x, u32 count, const RowOf& row_of)
      : digits(x.digits(0)), halves(x.halves_of(0)) {
    for (int nt = 0; nt < NT; nt++) first[nt] = row_of(::min(ROWS<W> * nt + fed_row<W>(), count - 1)) * x.blocks;
  }
  __device__ __forceinline__ uint4 parts(int nt, u32 block, u32 group) const {
    return __ldg(halves[first[nt] + block].words[group][threadIdx.x / 4 % 2] + threadIdx.x % 4);
  }
  __device__ __forceinline__ float scale(int nt, u32 block) const {
    return taken<W>(__ldg(&digits[first[nt] + block].scale.x));
  }
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

// The shared memory of a block of four warps for up to MOST rows: a ring of weights for each, and one of activations.
template <class W, int MOST>
struct ProductMemory {
  static constexpr int ROW_BYTES = W::SCALES == ROW ? 0 : MOST * int(sizeof(Digits));
  static constexpr int STAGE = 4 * Stage<W>::BYTES + ROW_BYTES;
  // Two blocks have room where a multiprocessor has 100 KB (sm_86, sm_89, sm_120); where it has more, as many as registers
  // allow. More stages than blocks would not pay: what is under way counts, and whether all blocks run at once.
  static constexpr int MOST_BYTES = MOST <= 1 ? 41984 : MOST <= 4 ? 48128 : !LARGE_SHARED ? 50176 : MOST <= 8 ? 57088 : 76288;
  static constexpr int DEPTH = 4 * STAGE <= MOST_BYTES ? 4 : 3 * STAGE <= MOST_BYTES ? 3 : 2;
  static constexpr int BYTES = DEPTH * STAGE;
};

// Copies the steps of a tile one after the other into the stages of a ring.
template <class W>
struct Feed {
  using S = Stage<W>;
  const u8 *codes, *extra, *scales, *deltas;  // of the next step, at the lane's first bytes
  u32 chunks;                                 // from there to the end of the row
  u8* to;                                     // the next stage, likewise
  u8* end;                                    // of the ring, likewise
  int turn;                                   // its bytes

  // `tile` counts from the first of all experts.
  __device__ __forceinline__ Feed(u8* ring, int depth, const WeightView& w, size_t tile, u32 step) {
    const u32 lane = threadIdx.x % 32 * 16;
    const size_t chunk = tile * w.chunks + S::CHUNKS * step;
    codes = w.codes + chunk * (128 * W::BITS) + lane;
    extra = w.extra + chunk * (128 * W::EXTRA) + lane;
    scales = w.scales + chunk * (S::SCALES / 4) + lane;
    deltas = w.deltas + chunk * (S::DELTAS / 4) + lane;
    chunks = w.chunks - S::CHUNKS * step;
    to = ring + lane;
    end = to + depth * S::BYTES;
    turn = depth * S::BYTES;
  }

  // The first `count` of at most `MOST` bytes of a plane.
  template <int MOST>
  static __device__ __forceinline__ void plane(u8* to, const u8*& from, u32 count) {
#pragma unroll
    for (int i = 0; i < (MOST + 511) / 512; i++)
      if ((!W::PARTIAL && MOST % 512 == 0) || i * 512 + threadIdx.x % 32 * 16 < count) copy16(to + i * 512, from + i * 512);
    from += MOST;
  }

  __device__ __forceinline__ void next() {
    const u32 count = W::PARTIAL ? min(u32(S::CHUNKS), chunks) : S::CHUNKS;
    plane<S::CODES>(to, codes, count * (128 * W::BITS));
    if constexpr (S::EXTRA != 0) plane<S::EXTRA>(to + S::CODES, extra, count * (128 * W::EXTRA));
    if constexpr (S::SCALES != 0) plane<S::SCALES>(to + S::CODES + S::EXTRA, scales, count * (S::SCALES / 4));
    if constexpr (S::DELTAS != 0) plane<S::DELTAS>(to + S::CODES + S::EXTRA + S::SCALES, deltas, S::DELTAS);
    if constexpr (W::PARTIAL) chunks -= S::CHUNKS;
    to += S::BYTES;
    if (to == end) to -= turn;
  }
};
