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
// registers and waits for no other warp.
#pragma once

#include "common/copy.cuh"
#include "common/head.cuh"
#include "common/prepare.cuh"
#include "common/weights.cuh"

// Rows of activations in a tile.
template <class W>
constexpr int ROWS = W::SCALES == ROW ? 4 : 2;

// Where the rows of `NT` tiles are. Lane (g, t) feeds column g of each tile, one of the parts of a row, and takes out the
// sums of columns 2 t and 2 t + 1, which are of one row too. Columns know nothing of one another: where there is no row,
// any other is fed, and nobody looks at what comes of it.
template <class W, int NT>
struct Lanes {
  const u8* digits;          // those of the block, of row 0
  const u8* halves;
  u32 feeds[NT];  // from there to the row that the lane feeds, in blocks

  // Rows of a tile that the lane feeds and takes.
  static __device__ __forceinline__ u32 feeds_row() { return threadIdx.x % 32 / 4 / (8 / ROWS<W>); }
  static __device__ __forceinline__ u32 takes_row() { return threadIdx.x % 4 / (4 / ROWS<W>); }

  __device__ __forceinline__ Lanes(const Prepared& x)
      : digits(x.base), halves(reinterpret_cast<const u8*>(x.halves_of(0))) {}

  // What the lane feeds: 64 columns in bytes, or 32 in halves.
  __device__ __forceinline__ uint4 bytes(int nt, u32 block, int chunk) const {
    return __ldg(at<Digits>(digits, feeds[nt], block).words[chunk][threadIdx.x / 4 % 4] + threadIdx.x % 4);
  }
  __device__ __forceinline__ uint4 parts(int nt, u32 block, u32 group) const {
    return __ldg(at<Halves>(halves, feeds[nt], block).words[group][threadIdx.x / 4 % 2] + threadIdx.x % 4);
  }
  // Sums of groups, for the mins. They go with the lowest byte of a row; what other lanes feed is not looked at.
  __device__ __forceinline__ uint2 mins(int nt, u32 block, int half) const {
    const Digits& x = at<Digits>(digits, feeds[nt], block);
    return __ldg((W::GROUP == 16 ? x.mins16[half] : x.mins32) + threadIdx.x % 4);
  }
  __device__ __forceinline__ float sum(int nt, u32 block, int group) const {
    return taken(__ldg(&at<Digits>(digits, feeds[nt], block).sums32[group]));
  }
  __device__ __forceinline__ float scale(int nt, u32 block) const {
    return taken(__ldg(&at<Digits>(digits, feeds[nt], block).scale));
  }

 private:
  // What was read of the rows that lanes feed, for the rows that they take.
  static __device__ __forceinline__ float taken(float of_feeds) {
    return __shfl_sync(~0u, of_feeds, takes_row() * (32 / ROWS<W>));
  }
  // `block` is the same in all lanes, which makes one address of the first two.
  template <class T>
  static __device__ __forceinline__ const T& at(const u8* base, u32 row, u32 block) {
    return *reinterpret_cast<const T*>(base + size_t(block) * sizeof(T) + row * u32(sizeof(T)));
  }
};

// A step of a warp: a block of 256 columns, or a chunk of 64 where values are halves or floats.
template <class W>
struct Stage {
  static constexpr int CHUNKS = W::SCALES == ROW ? 1 : 4;
  static constexpr int CODES = CHUNKS * 128 * W::BITS, EXTRA = CHUNKS * 128 * W::EXTRA;
  static constexpr int SCALES = 4 * Head<W>::CHUNK + Head<W>::BLOCK, DELTAS = Head<W>::DELTAS;
  static constexpr int BYTES = CODES + EXTRA + SCALES + DELTAS;
  // As many as four warps have room for in 48 KiB.
  static constexpr int DEPTH = BYTES * 16 <= 49152 ? 4 : BYTES * 12 <= 49152 ? 3 : 2;

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

// Copies the steps of a tile one after the other into the stages of a ring.
template <class W>
struct Feed {
  using S = Stage<W>;
  const u8 *codes, *extra, *scales, *deltas;  // of the next step, at the lane's first bytes
  u32 chunks;                                 // from there to the end of the row
  u8* to;                                     // the next stage, likewise
  u8* end;                                    // of the ring, likewise

  // `tile` counts from the first of all experts.
  __device__ __forceinline__ Feed(u8* ring, const WeightView& w, size_t tile, u32 step) {
    const u32 lane = threadIdx.x % 32 * 16;
    const size_t chunk = tile * w.chunks + S::CHUNKS * step;
    codes = w.codes + chunk * (128 * W::BITS) + lane;
    extra = w.extra + chunk * (128 * W::EXTRA) + lane;
    scales = w.scales + chunk * (S::SCALES / 4) + lane;
    deltas = w.deltas + chunk * (S::DELTAS / 4) + lane;
    chunks = w.chunks - S::CHUNKS * step;
    to = ring + lane;
    end = to + S::DEPTH * S::BYTES;
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
    if (to == end) to -= S::DEPTH * S::BYTES;
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

// Tiles that are summed up at once: for more there are not enough registers.
constexpr int AT_ONCE = 4;

// Adds the mins of a block, multiplied with the sums of its groups.
template <class W, int FIRST, int LAST, int NT>
__device__ __forceinline__ void subtract_mins(const Head<W>& head, const Lanes<W, NT>& lanes, u32 block,
                                              const float (&scale)[LAST - FIRST], Sums<NT>& sums) {
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
      const uint2 b = lanes.mins(nt, block, half);
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

// Adds the products of a block of codes with tiles FIRST to LAST. `ahead` holds the lane's bytes of the block, where there
// are registers for them.
template <class W, int FIRST, int LAST, int NT, bool AHEAD>
__device__ __forceinline__ void add_codes(const Stage<W>& stage, u32 count, const Lanes<W, NT>& lanes, u32 block,
                                          const uint4 (&ahead)[AHEAD ? 4 : 1][NT], Sums<NT>& sums) {
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
      const uint4 b = AHEAD ? ahead[AHEAD ? c : 0][nt] : lanes.bytes(nt, block, c);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int group = 2 * c + h;
        const u32 first = h ? b.z : b.x, second = h ? b.w : b.y;
        const float sum = W::SCALES == HALF_MIN ? lanes.sum(nt, block, group) : 0.f;
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
    scale[nt - FIRST] = lanes.scale(nt, block);
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
  if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) subtract_mins<W, FIRST, LAST>(head, lanes, block, scale, sums);
}

// Adds the products of chunk `chunk` of halves.
template <class W, int NT>
__device__ __forceinline__ void add_halves(const Stage<W>& stage, u32 chunk, const Lanes<W, NT>& lanes, Sums<NT>& sums) {
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
      const uint4 b = lanes.parts(nt, chunk / 4, chunk % 4 * 2 + h);
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
    const float scale = lanes.scale(nt, chunk / 4);
    if constexpr (W::BITS == 32)
      for (int i = 0; i < 4; i++) part[nt][i] = __fmaf_rn(rest[nt][i], 1.f / 2048, part[nt][i]);
    sums.g[nt] = __fmaf_rn(scale, __fmaf_rn(part[nt][1], 1.f / 2048, part[nt][0]), sums.g[nt]);
    sums.above[nt] = __fmaf_rn(scale, __fmaf_rn(part[nt][3], 1.f / 2048, part[nt][2]), sums.above[nt]);
  }
}

// The products of one tile with a range of its steps. Copies of weights begin at once; what is multiplied with them may
// come into being until `finish`.
template <class W, int NT>
struct Product {
  static constexpr int CHUNKS = Stage<W>::CHUNKS, DEPTH = Stage<W>::DEPTH, BYTES = Stage<W>::BYTES;
  Feed<W> feed;
  u32 first, end, ahead;

  // `ring` is the warp's shared memory; `tile` counts from the first of all experts.
  __device__ __forceinline__ Product(u8* ring, const WeightView& w, size_t tile, u32 first, u32 end)
      : feed(ring, w, tile, first), first(first), end(end), ahead(first) {
    __syncwarp();  // all are done with what the ring held
    for (int i = 0; i < DEPTH - 1; i++, ahead++) {
      if (ahead < end) feed.next();
      copies_end();
    }
  }

  __device__ __forceinline__ Sums<NT> finish(u8* ring, const WeightView& w, size_t tile, const Lanes<W, NT>& lanes) {
    // So few rows are read before the weights are there.
    constexpr bool AHEAD = W::SCALES != ROW && NT <= 2;
    Sums<NT> sums = {};
    Stage<W> stage = {ring};
#pragma unroll 1
    for (u32 step = first; step < end; step++, ahead++) {
      uint4 bytes[AHEAD ? 4 : 1][NT];
      if constexpr (AHEAD) {
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
          for (int nt = 0; nt < NT; nt++) bytes[c][nt] = lanes.bytes(nt, step, c);
      }
      copies_wait<DEPTH - 2>();
      __syncwarp();  // what other lanes copied is there, and all are done with the stage that is copied to next
      if (ahead < end) feed.next();
      copies_end();
      if constexpr (W::SCALES == ROW) add_halves<W, NT>(stage, step, lanes, sums);
      else {
        const u32 count = w.chunks - CHUNKS * step;
        add_codes<W, 0, NT < AT_ONCE ? NT : AT_ONCE, NT, AHEAD>(stage, count, lanes, step, bytes, sums);
        if constexpr (NT > AT_ONCE) {
          __syncwarp();
          add_codes<W, AT_ONCE, NT, NT, AHEAD>(stage, count, lanes, step, bytes, sums);
        }
      }
      stage.at += BYTES;
      if (stage.at == ring + DEPTH * BYTES) stage.at = ring;
    }
    if constexpr (W::SCALES == ROW) {
      const float* scales = reinterpret_cast<const float*>(w.scales) + tile * 16 + threadIdx.x % 32 / 4;
      for (int nt = 0; nt < NT; nt++) sums.g[nt] *= scales[0], sums.above[nt] *= scales[8];
    }
    return sums;
  }
};

// Steps of a row of `w`.
template <class W>
__device__ __forceinline__ u32 steps_of(const WeightView& w) {
  return (w.chunks + Stage<W>::CHUNKS - 1) / Stage<W>::CHUNKS;
}
