// What a lane sums up in products of few rows: product.cuh says in which order.
#pragma once

#include "common/product_feed.cuh"

// Sums of NT tiles, with rows g and g + 8 of the weight: of row t of a tile of four, or, of a tile of two, of two of the four
// bytes of row t / 2.
template <int NT>
struct Sums {
  float g[NT], above[NT];
};

// Hands out sums: `put(nt, row of the tile, row of the weight, value)`. Of four bytes 0 and 1 are in even lanes, 2 and 3 in
// odd ones; of a pair the even lane hands out row g, the odd one row g + 8.
template <class W, int NT, class Put>
__device__ __forceinline__ void hand_out(const Sums<NT>& sums, const Put& put) {
  const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int nt = 0; nt < NT; nt++) {
    if constexpr (ROWS<W> == 4) {
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
template <class W, int MOST, int FIRST, int LAST, int NT>
__device__ __forceinline__ void subtract_mins(const Head<W>& head, const Digits* x, const float (&scale)[LAST - FIRST],
                                              Sums<NT>& sums) {
  constexpr int halves = W::SCALES == SIX_BIT ? 1 : 2;
  u32 a[halves][4];
#pragma unroll
  for (int half = 0; half < halves; half++) head.mins(half, a[half]);
  const bool lowest = ROWS<W> == 4 || threadIdx.x % 2 == 0;
  const float f0 = lowest ? -head.min_factor(0) : 0.f, f1 = lowest ? -head.min_factor(1) : 0.f;
#pragma unroll
  for (int nt = FIRST; nt < LAST; nt++) {
    float c[4] = {};
#pragma unroll
    for (int half = 0; half < halves; half++) {
      // They go with the lowest byte of a row; what comes of other columns is not looked at.
      const Digits& row = digits_of<W, MOST>(x, nt, fed_row<W>());
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
template <class W, int MOST, int FIRST, int LAST, int NT>
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
      const Digits& row = digits_of<W, MOST>(x, nt, fed_row<W>());
      const uint4 b = row.words[c][threadIdx.x / 4 % DIGITS][threadIdx.x % 4];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int group = 2 * c + h;
        const u32 first = h ? b.z : b.x, second = h ? b.w : b.y;
        const float sum = W::SCALES == HALF_MIN ? digits_of<W, MOST>(x, nt, taken_row<W>()).sums32[group] : 0.f;
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
  const float place = ROWS<W> == 4 || threadIdx.x % 2 == 0 ? DIGIT : DIGIT * 65536.f;
  const float f0 = head.factor(0) * place, f1 = head.factor(1) * place;
  float scale[LAST - FIRST];
#pragma unroll
  for (int nt = FIRST; nt < LAST; nt++) {
    scale[nt - FIRST] = digits_of<W, MOST>(x, nt, taken_row<W>()).scale.x;
    sums.g[nt] = __fmaf_rn(__fmul_rn(f0, scale[nt - FIRST]), part[nt - FIRST].of(0), sums.g[nt]);
    sums.above[nt] = __fmaf_rn(__fmul_rn(f1, scale[nt - FIRST]), part[nt - FIRST].of(1), sums.above[nt]);
    if constexpr (W::SCALES == HALF_MIN) {
      // They go with the lowest byte too.
      const float once = ROWS<W> == 4 || threadIdx.x % 2 == 0 ? scale[nt - FIRST] : 0.f;
      sums.g[nt] = __fmaf_rn(once, part[nt - FIRST].offsets[0], sums.g[nt]);
      sums.above[nt] = __fmaf_rn(once, part[nt - FIRST].offsets[1], sums.above[nt]);
    }
  }
  if (NT > 2) __syncwarp();
  if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) subtract_mins<W, MOST, FIRST, LAST>(head, x, scale, sums);
}

// Adds the products of a chunk of halves with the rows `x`.
template <class W, int MOST, int NT>
__device__ __forceinline__ void add_halves(const Stage<W>& stage, const u8* x, Sums<NT>& sums) {
  const auto row_of = [&](int nt) {
    const u32 row = MOST < ROWS<W> ? min(fed_row<W>(), u32(MOST - 1)) : ROWS<W> * nt + fed_row<W>();
    return x + row * ROW_BYTES<W>;
  };
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
      const uint4 b = reinterpret_cast<const uint4*>(row_of(nt) + h * 128)[threadIdx.x / 4 % 2 * 4 + threadIdx.x % 4];
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
    const float scale = taken<W>(*reinterpret_cast<const float*>(row_of(nt) + 256));
    if constexpr (W::BITS == 32)
      for (int i = 0; i < 4; i++) part[nt][i] = __fmaf_rn(rest[nt][i], 1.f / 2048, part[nt][i]);
    sums.g[nt] = __fmaf_rn(scale, __fmaf_rn(part[nt][1], 1.f / 2048, part[nt][0]), sums.g[nt]);
    sums.above[nt] = __fmaf_rn(scale, __fmaf_rn(part[nt][3], 1.f / 2048, part[nt][2]), sums.above[nt]);
  }
}
