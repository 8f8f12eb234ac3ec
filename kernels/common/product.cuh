// Products of 16 rows of a weight with a few prepared rows of activations: one warp, a range of blocks of 256 columns.
//
// The order of a row's sums is that of the columns: groups of 16 or 32 inside `mma`, then groups of a block, then blocks.
// It is the same for every row and every number of them.
//
// Codes meet the four bytes of a value in products of integers, a byte a column of the B operand, so a tile has two rows.
// Nothing is rounded before the sum of a group, or, where its factors are whole numbers, of a block: below 2^30 all of them.
// Weights that are halves meet two halves of a value, and a tile has four rows.
//
// A warp copies its weights to shared memory a few blocks ahead, in a ring of its own, so that what is on its way takes no
// registers. The four warps of a block, each with 16 rows of the weight, share the bytes of the activations, in a ring too:
// each reading its own would bring more of them through the second-level cache than of weights.
#pragma once

#include "common/copy.cuh"
#include "common/head.cuh"
#include "common/prepare.cuh"
#include "common/weights.cuh"

// Rows of activations in a tile.
template <class W>
constexpr int ROWS = W::SCALES == ROW ? 4 : 2;

// Rows of a tile that lane (g, t) feeds with column g of the B operand, and whose sums it takes out, columns 2 t and 2 t + 1.
template <class W>
__device__ __forceinline__ u32 fed_row() { return threadIdx.x % 32 / 4 / (8 / ROWS<W>); }
template <class W>
__device__ __forceinline__ u32 taken_row() { return threadIdx.x % 4 / (4 / ROWS<W>); }

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

// The shared memory of a block of four warps for up to MOST rows: a ring of weights for each, and one of activations.
template <class W, int MOST>
struct ProductMemory {
  static constexpr int ROW_BYTES = W::SCALES == ROW ? 0 : MOST * int(sizeof(Digits));
  static constexpr int STAGE = 4 * Stage<W>::BYTES + ROW_BYTES;
  // Two blocks for few rows, and one for many, have room on every GPU from Ampere on; on larger ones as many as registers
  // allow. More stages than blocks would not pay: what is under way counts, and whether all blocks run at once.
  static constexpr int MOST_BYTES = MOST <= 2 ? 41984 : MOST <= 4 ? 48128 : MOST <= 8 ? 58368 : 98304;
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

// Sums of NT tiles, with rows g and g + 8 of the weight: of row t of a tile of four, or of two bytes of row t / 2.
template <int NT>
struct Sums {
  float g[NT], above[NT];
};

// Hands out sums: `put(nt, row of the tile, row of the weight, value)`. Bytes 0 and 1 are in even lanes, 2 and 3 in odd
// ones; of a pair the even lane hands out row g, the odd one row g + 8.
template <class W, int NT, class Put>
__device__ __forceinline__ void hand_out(const Sums<NT>& sums, const Put& put) {
  const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int nt = 0; nt < NT; nt++) {
    if constexpr (W::SCALES == ROW) {
      put(nt, t, g, sums.g[nt]);
      put(nt, t, g + 8, sums.above[nt]);
    } else {
      const bool odd = t % 2;
      const float other = __shfl_xor_sync(~0u, odd ? sums.g[nt] : sums.above[nt], 1);
      put(nt, t / 2, odd ? g + 8 : g, __fadd_rn(odd ? sums.above[nt] : sums.g[nt], other));
    }
  }
}

// Tiles that are summed up at once: for more there are not enough registers. NVRTC 13.0
// needs more of them from sm_100 on.
#if __CUDA_ARCH__ >= 1000
constexpr int AT_ONCE = 4;
#else
constexpr int AT_ONCE = 8;
#endif

// Adds the mins of a block, multiplied with the sums of its groups.
template <class W, int FIRST, int LAST, int NT>
__device__ __forceinline__ void subtract_mins(const Head<W>& head, const Digits* x, const float (&scale)[LAST - FIRST],
                                              Sums<NT>& sums) {
  constexpr int halves = W::SCALES == SIX_BIT ? 1 : 2;
  u32 a[halves][4];
#pragma unroll
  for (int half = 0; half < halves; half++) head.mins(half, a[half]);
  const bool lowest = threadIdx.x % 2 == 0;
  const float f0 = lowest ? -head.min_factor(0) : 0.f, f1 = lowest ? -head.min_factor(1) : 0.f;
#pragma unroll
  for (int nt = FIRST; nt < LAST; nt++) {
    float c[4] = {};
#pragma unroll
    for (int half = 0; half < halves; half++) {
      // They go with the lowest byte of a row; what other lanes feed is not looked at.
      const Digits& row = x[ROWS<W> * nt + fed_row<W>()];
      const uint2 b = (W::GROUP == 16 ? row.mins16[half] : row.mins32)[threadIdx.x % 4];
      mma(c, a[half], b.x, b.y);
    }
    sums.g[nt] = __fmaf_rn(__fmul_rn(f0, scale[nt - FIRST]), c[0], sums.g[nt]);
    sums.above[nt] = __fmaf_rn(__fmul_rn(f1, scale[nt - FIRST]), c[2], sums.above[nt]);
  }
}

// What a lane sums up in a block for one tile: columns 2 t and 2 t + 1 with rows g and g + 8.
template <class W>
struct Part {
  int whole[4];      // columns apart, if factors are whole numbers
  float pairs[2];    // both columns, otherwise
  float offsets[2];  // HALF_MIN

  // Adds group `j`, whose products are `now`.
  __device__ __forceinline__ void add(const int (&now)[4], const Head<W>& head, int j, float sum) {
    if constexpr (W::WHOLE) {
      const int s0 = head.whole(j, 0), s1 = head.whole(j, 1);
      whole[0] += s0 * now[0], whole[1] += s0 * now[1];
      whole[2] += s1 * now[2], whole[3] += s1 * now[3];
    } else {
      pairs[0] = __fmaf_rn(head.scale(j, 0), float(now[0] + 256 * now[1]), pairs[0]);
      pairs[1] = __fmaf_rn(head.scale(j, 1), float(now[2] + 256 * now[3]), pairs[1]);
      if constexpr (W::SCALES == HALF_MIN) {
        offsets[0] = __fmaf_rn(head.min(j, 0), sum, offsets[0]);
        offsets[1] = __fmaf_rn(head.min(j, 1), sum, offsets[1]);
      }
    }
  }
  __device__ __forceinline__ float of(int i) const {
    if constexpr (W::WHOLE) return __fmaf_rn(256.f, float(whole[2 * i + 1]), float(whole[2 * i]));
    else return pairs[i];
  }
};

// Adds the products of a block of codes with tiles FIRST to LAST of the rows `x`.
template <class W, int FIRST, int LAST, int NT>
__device__ __forceinline__ void add_codes(const Stage<W>& stage, u32 count, const Digits* x, Sums<NT>& sums) {
  Head<W> head;
  head.block(stage.scales(), stage.deltas());
  Part<W> part[LAST - FIRST] = {};
#pragma unroll
  for (int c = 0; c < 4; c++) {
    if (W::PARTIAL && c >= count) break;
    // Keeps loads of later chunks from being moved up here, where they would fill the registers.
    __syncwarp();
    u32 codes[W::BITS], extra[W::EXTRA ? W::EXTRA : 1];
    stage.template words<W::BITS>(codes, 0, c);
    if constexpr (W::EXTRA != 0) stage.template words<W::EXTRA>(extra, Stage<W>::CODES, c);
    head.chunk(stage.scales(), c);
    u32 a[2][4];
    bytes_of_codes<W>(codes, extra, 0, a[0]);
    bytes_of_codes<W>(codes, extra, 1, a[1]);
#pragma unroll
    for (int nt = FIRST; nt < LAST; nt++) {
      const Digits& row = x[ROWS<W> * nt + fed_row<W>()];
      const uint4 b = row.words[c][threadIdx.x / 4 % 4][threadIdx.x % 4];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int group = 2 * c + h;
        const u32 first = h ? b.z : b.x, second = h ? b.w : b.y;
        const float sum = W::SCALES == HALF_MIN ? x[ROWS<W> * nt + taken_row<W>()].sums32[group] : 0.f;
        int now[4];
        if constexpr (W::GROUP == 16) {
          mma_bytes<W::SIGNED>(now, a[h][0], a[h][1], first);
          part[nt - FIRST].add(now, head, 2 * group, sum);
          mma_bytes<W::SIGNED>(now, a[h][2], a[h][3], second);
          part[nt - FIRST].add(now, head, 2 * group + 1, sum);
        } else {
          mma_bytes<W::SIGNED>(now, a[h], first, second);
          part[nt - FIRST].add(now, head, group, sum);
        }
      }
    }
  }
  if (NT > 2) __syncwarp();  // likewise
  // What bytes 0 and 1 count, and bytes 2 and 3.
  const float place = threadIdx.x % 2 ? DIGIT * 65536.f : DIGIT;
  const float f0 = head.factor(0) * place, f1 = head.factor(1) * place;
  float scale[LAST - FIRST];
#pragma unroll
  for (int nt = FIRST; nt < LAST; nt++) {
    scale[nt - FIRST] = x[ROWS<W> * nt + taken_row<W>()].scale.x;
    sums.g[nt] = __fmaf_rn(__fmul_rn(f0, scale[nt - FIRST]), part[nt - FIRST].of(0), sums.g[nt]);
    sums.above[nt] = __fmaf_rn(__fmul_rn(f1, scale[nt - FIRST]), part[nt - FIRST].of(1), sums.above[nt]);
    if constexpr (W::SCALES == HALF_MIN) {
      // They go with the lowest byte too.
      const float once = threadIdx.x % 2 ? 0.f : scale[nt - FIRST];
      sums.g[nt] = __fmaf_rn(once, part[nt - FIRST].offsets[0], sums.g[nt]);
      sums.above[nt] = __fmaf_rn(once, part[nt - FIRST].offsets[1], sums.above[nt]);
    }
  }
  if (NT > 2) __syncwarp();
  if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) subtract_mins<W, FIRST, LAST>(head, x, scale, sums);
}

// Adds the products of chunk `chunk` of halves.
template <class W, int NT>
__device__ __forceinline__ void add_halves(const Stage<W>& stage, u32 chunk, const HalfRows<W, NT>& rows, Sums<NT>& sums) {
  float part[NT][4] = {}, rest[W::BITS == 32 ? NT : 1][4] = {};
  u32 codes[W::BITS];
  stage.template words<W::BITS>(codes, 0, 0);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    u32 a[2][4];
    fragment<W>(codes, 2 * h, a[0]);
    fragment<W>(codes, 2 * h + 1, a[1]);
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
      const uint4 b = rows.parts(nt, chunk / 4, chunk % 4 * 2 + h);
      mma(part[nt], a[0], b.x, b.y);
      mma(part[nt], a[1], b.z, b.w);
      if constexpr (W::BITS == 32) {
        u32 low[2][4];
        fragment<W>(codes + 16, 2 * h, low[0]);
        fragment<W>(codes + 16, 2 * h + 1, low[1]);
        mma(rest[nt], low[0], b.x, b.y);
        mma(rest[nt], low[1], b.z, b.w);
      }
    }
  }
#pragma unroll
  for (int nt = 0; nt < NT; nt++) {
    const float scale = rows.scale(nt, chunk / 4);
    if constexpr (W::BITS == 32)
      for (int i = 0; i < 4; i++) part[nt][i] = __fmaf_rn(rest[nt][i], 1.f / 2048, part[nt][i]);
    sums.g[nt] = __fmaf_rn(scale, __fmaf_rn(part[nt][1], 1.f / 2048, part[nt][0]), sums.g[nt]);
    sums.above[nt] = __fmaf_rn(scale, __fmaf_rn(part[nt][3], 1.f / 2048, part[nt][2]), sums.above[nt]);
  }
}

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
          add_codes<W, 0, NT < AT_ONCE ? NT : AT_ONCE>(stage, chunks, x_rows, sums);
          if constexpr (NT > AT_ONCE) {
            __syncwarp();
            add_codes<W, AT_ONCE, NT>(stage, chunks, x_rows, sums);
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
