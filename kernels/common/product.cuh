// Products of 16 rows of a weight with a few prepared rows of activations: one warp, a range of blocks of 256 columns.
//
// The order of a row's sums is that of the columns: groups of 16 or 32 inside `mma`, then groups of a block, then blocks.
// It is the same for every row and every number of them.
//
// A warp copies its weights to shared memory a few blocks ahead, in a ring of its own, so that what is on its way takes no
// registers and waits for no other warp.
#pragma once

#include "common/copy.cuh"
#include "common/head.cuh"
#include "common/prepare.cuh"
#include "common/weights.cuh"

// Where the rows of `NT` tiles of 4 split rows are. Lane (g, t) feeds column g of each tile, which is part g % 2 of row
// g / 2, and takes the sums of row t out. Addresses move on with the steps.
template <int NT>
struct Lanes {
  bool valid[NT];         // whether there is a row to feed
  const uint4* part[NT];  // of column g
  const uint2* min[NT];   // of column g, in `mins32` or `mins16`
  const float* sum[NT];   // of row t, in `sums32` or `sums16`
  const float* scale[NT]; // of row t

  // `feeds` and `takes` are the rows for g / 2 and for t; `sixteen` says how long groups are.
  __device__ __forceinline__ void set(int nt, const Prepared& x, bool sixteen, u32 feeds, bool is_valid, u32 takes) {
    const u32 lane = threadIdx.x % 32, n = 2 * feeds + lane / 4 % 2, t = lane % 4;
    valid[nt] = is_valid;
    part[nt] = reinterpret_cast<const uint4*>(x.base) + (size_t(n / 8) * x.groups() * 8 + n % 8) * 4 + t;
    const u32 many = sixteen ? 2 : 1;
    min[nt] = reinterpret_cast<const uint2*>(sixteen ? x.mins16() : x.mins32()) + (size_t(n / 8) * x.blocks * many * 8 + n % 8) * 4 + t;
    sum[nt] = (sixteen ? x.sums16() : x.sums32()) + size_t(takes / 4) * x.groups() * many * 4 + takes % 4;
    scale[nt] = x.scales() + size_t(takes) * x.blocks;
  }
  // Goes on by so many chunks.
  template <class W>
  __device__ __forceinline__ void forward(u32 chunks) {
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
      part[nt] += chunks * 64;
      if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) min[nt] += chunks / 4 * (W::GROUP == 16 ? 64 : 32);
      if constexpr (W::EXCESS != 0 || W::SCALES == HALF_MIN) sum[nt] += chunks * (W::GROUP == 16 ? 16 : 8);
    }
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

// Sums of NT tiles of rows: of tile nt, `g[nt]` is row g of the weight with row t, `above[nt]` row g + 8.
template <int NT>
struct Sums {
  float g[NT], above[NT];
};

// Adds the mins of a block, multiplied with the sums of its groups.
template <class W, int NT>
__device__ __forceinline__ void subtract_mins(const Head<W>& head, const Lanes<NT>& lanes, const float (&scale)[NT],
                                              Sums<NT>& sums) {
  constexpr int halves = W::SCALES == SIX_BIT ? 1 : 2;
  float c[NT][4] = {};
#pragma unroll
  for (int half = 0; half < halves; half++) {
    u32 a[4];
    head.mins(half, a);
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
      const uint2 b = lanes.valid[nt] ? __ldg(lanes.min[nt] + half * 32) : make_uint2(0, 0);
      mma(c[nt], a, b.x, b.y);
    }
  }
#pragma unroll
  for (int nt = 0; nt < NT; nt++) {
    sums.g[nt] = __fmaf_rn(__fmul_rn(-head.min_factor(0), scale[nt]), c[nt][0], sums.g[nt]);
    sums.above[nt] = __fmaf_rn(__fmul_rn(-head.min_factor(1), scale[nt]), c[nt][2], sums.above[nt]);
  }
}

// Adds the products of one step.
template <class W, int NT>
__device__ __forceinline__ void add_step(const Stage<W>& stage, u32 count, const Lanes<NT>& lanes, u32 block,
                                         Sums<NT>& sums) {
  Head<W> head;
  head.block(stage.scales(), stage.deltas());
  float part[NT][4] = {}, rest[W::BITS == 32 ? NT : 1][4] = {}, min[2][NT] = {};
#pragma unroll
  for (int c = 0; c < Stage<W>::CHUNKS; c++) {
    if (W::PARTIAL && c >= count) break;
    // Keeps loads of later chunks from being moved up here, where they would fill the registers.
    __syncwarp();
    u32 codes[W::BITS], extra[W::EXTRA ? W::EXTRA : 1];
    stage.template words<W::BITS>(codes, 0, c);
    if constexpr (W::EXTRA != 0) stage.template words<W::EXTRA>(extra, Stage<W>::CODES, c);
    head.chunk(stage.scales(), c);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int group = 2 * c + h;
      uint4 b[NT];
#pragma unroll
      for (int nt = 0; nt < NT; nt++)
        b[nt] = lanes.valid[nt] ? __ldg(lanes.part[nt] + group * 32) : make_uint4(0, 0, 0, 0);
      u32 a[2][4];
      fragment<W>(codes, extra, 2 * h, a[0]);
      fragment<W>(codes, extra, 2 * h + 1, a[1]);
      in_products<W>(a[0]);
      in_products<W>(a[1]);
      if constexpr (W::SCALES == ROW) {
#pragma unroll
        for (int nt = 0; nt < NT; nt++) {
          mma(part[nt], a[0], b[nt].x, b[nt].y);
          mma(part[nt], a[1], b[nt].z, b[nt].w);
        }
        if constexpr (W::BITS == 32) {
          fragment<W>(codes + 16, extra, 2 * h, a[0]);
          fragment<W>(codes + 16, extra, 2 * h + 1, a[1]);
#pragma unroll
          for (int nt = 0; nt < NT; nt++) {
            mma(rest[nt], a[0], b[nt].x, b[nt].y);
            mma(rest[nt], a[1], b[nt].z, b[nt].w);
          }
        }
      } else {
#pragma unroll
        for (int i = 0; i < 32 / W::GROUP; i++) {
          const int j = (2 * c + h) * (32 / W::GROUP) + i;
          const float s0 = head.scale(j, 0), s1 = head.scale(j, 1);
#pragma unroll
          for (int nt = 0; nt < NT; nt++) {
            float sum = 0.f;
            if constexpr (W::EXCESS != 0 || W::SCALES == HALF_MIN) {
              sum = __ldg(lanes.sum[nt] + j * 4);
            }
            constexpr float offset = -W::EXCESS / W::UNIT;
            float now[4] = {offset * sum, 0.f, offset * W::ABOVE * sum, 0.f};
            const u32(&first)[4] = a[W::GROUP == 16 ? i : 0];
            const u32 x = W::GROUP == 16 && i == 1 ? b[nt].z : b[nt].x, y = W::GROUP == 16 && i == 1 ? b[nt].w : b[nt].y;
            if constexpr (W::EXCESS == 0) mma_from_zero(now, first, x, y);
            else mma(now, first, x, y);
            if constexpr (W::GROUP != 16) mma(now, a[1], b[nt].z, b[nt].w);
            part[nt][0] = __fmaf_rn(s0, now[0], part[nt][0]);
            part[nt][1] = __fmaf_rn(s0, now[1], part[nt][1]);
            part[nt][2] = __fmaf_rn(s1, now[2], part[nt][2]);
            part[nt][3] = __fmaf_rn(s1, now[3], part[nt][3]);
            if constexpr (W::SCALES == HALF_MIN) {
              min[0][nt] = __fmaf_rn(head.min(j, 0), sum, min[0][nt]);
              min[1][nt] = __fmaf_rn(head.min(j, 1), sum, min[1][nt]);
            }
          }
        }
      }
    }
  }
  float scale[NT];
#pragma unroll
  for (int nt = 0; nt < NT; nt++) {
    scale[nt] = __ldg(lanes.scale[nt] + block);
    if constexpr (W::BITS == 32)
      for (int i = 0; i < 4; i++) part[nt][i] = __fmaf_rn(rest[nt][i], 1.f / 2048, part[nt][i]);
    const float low = __fmaf_rn(part[nt][1], 1.f / 2048, part[nt][0]), high = __fmaf_rn(part[nt][3], 1.f / 2048, part[nt][2]);
    sums.g[nt] = __fmaf_rn(__fmul_rn(head.factor(0), scale[nt]), low, sums.g[nt]);
    sums.above[nt] = __fmaf_rn(__fmul_rn(head.factor(1), scale[nt]), high, sums.above[nt]);
    if constexpr (W::SCALES == HALF_MIN) {
      sums.g[nt] = __fmaf_rn(scale[nt], min[0][nt], sums.g[nt]);
      sums.above[nt] = __fmaf_rn(scale[nt], min[1][nt], sums.above[nt]);
    }
  }
  if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) subtract_mins<W, NT>(head, lanes, scale, sums);
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

  __device__ __forceinline__ Sums<NT> finish(u8* ring, const WeightView& w, size_t tile, Lanes<NT> lanes) {
    Sums<NT> sums = {};
    lanes.template forward<W>(CHUNKS * first);
    Stage<W> stage = {ring};
#pragma unroll 1
    for (u32 step = first; step < end; step++, ahead++) {
      copies_wait<DEPTH - 2>();
      __syncwarp();  // what other lanes copied is there, and all are done with the stage that is copied to next
      if (ahead < end) feed.next();
      copies_end();
      add_step<W, NT>(stage, w.chunks - CHUNKS * step, lanes, CHUNKS * step / 4, sums);
      lanes.template forward<W>(CHUNKS);
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
