// attention, inner part of both classes, first half: logits and weights of a block's columns.
//
// A column is one query, a row and a head of the block's key head. A block has DIM / 64 warps; a tile of keys is 16 for
// each. For a tile, warp w makes the logits of keys 16 w to 16 w + 15 for all columns (operand A holds keys, operand B
// queries), the weights go through shared memory, and warp w adds up values 64 w to 64 w + 63 of all keys (A holds values,
// B weights). Every number of a column comes from operands of that column alone, in an order that tiles fix: a tile at
// absolute multiples of KEYS, tiles upwards. A tile of which a column sees nothing changes none of its bits.
//
// EXACT: queries, weights and centroids are sums of two halves, products stay inside the bounds of f32. Otherwise
// everything is rounded to halves once; sums are f32 in both.
//
// What a column does not see may be anything. Its logits are replaced, its weights are 0, and values that are no numbers
// are taken out where not all see them; who does see them gets NaN.
#pragma once

#include "common/attend_chunks.cuh"
#include "common/rotate.cuh"

template <u32 TILES, u32 STAGES>
struct Logits : Chunks<STAGES> {
  typedef Chunks<STAGES> Copies;
  using Copies::at;
  using Copies::warp;
  static constexpr u32 COLUMNS = 8 * TILES;
  static constexpr u32 Q_BYTES = DIM / 16 * TILES * (EXACT ? 512 : 256);
  static constexpr u32 P_BYTES = WARPS * TILES * (EXACT ? 512 : 256);
  static constexpr u32 BYTES = Q_BYTES + P_BYTES + WARPS * STAGES * CHUNK;
  static constexpr u32 OUT_STRIDE = DIM + 4;
  static_assert(8 * OUT_STRIDE * 4 <= BYTES - Q_BYTES - P_BYTES, "sums have the place of chunks");

  u8 *q, *p;                   // shared memory: queries, weights
  float* out;                  // sums of eight columns, in the place of all chunks
  Columns<COLUMNS>& columns;
  float o[4][TILES][4];        // [tile of 16 values][tile of 8 columns]: sums of weighted values
  float total[TILES][2];
  u32 odd = 0;                 // number of tiles so far, mod 2

  __device__ Logits(u8* shared, Columns<COLUMNS>& columns, const Cache& cache, u32 head, u32 thread = threadIdx.x)
      : Copies(shared + Q_BYTES + P_BYTES, cache, head, thread), q(shared), p(shared + Q_BYTES),
        out(reinterpret_cast<float*>(shared + Q_BYTES + P_BYTES)), columns(columns) {
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (u32 m = 0; m < 4; m++) o[m][n][i] = 0.f;
        if (i < 2) total[n][i] = 0.f;
      }
    }
  }

  // `count` rows from `first_row` on, with the heads of the block's key head. They see as far as `reach`.
  __device__ void set_columns(const RowInfo* rows, u32 first_row, u32 count, const CudaAttentionParams& params, u32 reach) {
    const u32 group = params.group;
#pragma unroll 1
    for (u32 c = thread_anew(); c < COLUMNS; c += THREADS) {
      const bool there = c < count * group;
      const u32 row = first_row + (there ? c / group : 0);
      columns.query[c] = row * params.heads + Copies::head * group + c % group;
      columns.slot[c] = there ? rows[row].slot : NOTHING;
      columns.seen[c] = there ? seen_by(rows[row], params.window, reach) : Seen{0, 0};
      columns.top[c] = columns.before[0][c] = ordered(LOWEST);
      columns.broken[c] = 0;
    }
    __syncthreads();
  }

  // Queries as operand B of every step.
  __device__ void load_queries(const float* from) {
    const u32 thread = thread_anew();
#pragma unroll 1
    for (u32 c = thread / 32; c < COLUMNS; c += WARPS) {
#pragma unroll 1
      for (u32 start = 0; start < DIM; start += 256) {
        const u32 value = start + 8 * (thread % 32);
        float v[8] = {};
        if (columns.slot[c] != NOTHING && value < DIM) {
          const float4* x = reinterpret_cast<const float4*>(from + size_t(columns.query[c]) * DIM + value);
          const float4 a = x[0], b = x[1];
          v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w; v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
        }
        put_query(c, value, v);
      }
    }
  }

  // Eight values of the query of column `c`, turned if the keys are. All lanes call it, each with values of its own.
  __device__ __forceinline__ void put_query(u32 c, u32 value, float (&v)[8]) const {
    if (K_KIND == KV_TQ3_0) rotate<8>(v, false);
    if (value >= DIM) return;
    // A lane's four columns, high and then low halves; `column` is that of value `i`.
    const auto place = [&](u32 i, u32& column) {
      u32 k, t;
      key_place(K_KIND, (value + i) % 64, k, t, column);
      k += (value + i) / 64 * 4;
      const u32 lane = c % 8 * 4 + t, n = c / 8;
      return reinterpret_cast<u16*>(q) + (EXACT ? ((k * TILES + n) * 32 + lane) * 8
                                                : ((k * (TILES / 2) + n / 2) * 32 + lane) * 8 + n % 2 * 4);
    };
    u32 column;
    if constexpr (K_KIND == KV_TQ3_0) {
#pragma unroll
      for (u32 i = 0; i < 8; i++) {
        u16* to = place(i, column);
        const u16 high = half_of(v[i]);
        to[column] = high;
        if (EXACT) to[4 + column] = half_of(v[i] - float_of(high));
      }
    } else if constexpr (K_KIND == KV_F16) {
#pragma unroll
      for (u32 i = 0; i < 8; i += 2) {
        const u32 high = halves_of(v[i], v[i + 1]);
        u16* lane = place(i, column);
        u32* to = reinterpret_cast<u32*>(lane + column);
        to[0] = high;
        if (EXACT) to[2] = halves_of(v[i] - low_half(high), v[i + 1] - high_half(high));
      }
    } else {
      // Four values that follow one another are those four columns, of KV_Q4_0 in another order.
      constexpr u32 SECOND = K_KIND == KV_Q4_0 ? 2 : 1;
#pragma unroll
      for (u32 i = 0; i < 8; i += 4) {
        const float w[4] = {v[i], v[i + SECOND], v[i + 3 - SECOND], v[i + 3]};
        const u32 a = halves_of(w[0], w[1]), b = halves_of(w[2], w[3]);
        u16* to = place(i, column);
        if constexpr (EXACT) {
          *reinterpret_cast<uint4*>(to) = make_uint4(a, b, halves_of(w[0] - low_half(a), w[1] - high_half(a)),
                                                     halves_of(w[2] - low_half(b), w[3] - high_half(b)));
        } else {
          *reinterpret_cast<uint2*>(to) = make_uint2(a, b);
        }
      }
    }
  }

  // Logits of 16 keys over 64 columns of them, number `c` of all.
  __device__ __forceinline__ void logits(const u8* chunk, u32 c, float (&s)[TILES][4]) {
    KeyChunk<K_KIND> keys(chunk, at);
    const uint4* queries = reinterpret_cast<const uint4*>(q) + c * (4 * (EXACT ? TILES : TILES / 2) * 32) + at.lane;
    if constexpr (EXACT) {
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        float high[TILES][4] = {}, low[TILES][4] = {};
#pragma unroll
        for (u32 i = 2 * half; i < 2 * half + 2; i++) {
          u32 a[4], rest[4];
          keys.fragment(i, a, rest);
#pragma unroll
          for (u32 n = 0; n < TILES; n++) {
            const uint4 b = queries[(i * TILES + n) * 32];
            mma(high[n], a, b.x, b.y);
            mma(low[n], a, b.z, b.w);
            if (K_KIND == KV_TQ3_0) mma(low[n], rest, b.x, b.y);
          }
        }
        const float d[2] = {keys.scale(2 * half, 0), keys.scale(2 * half, 1)};
#pragma unroll
        for (u32 n = 0; n < TILES; n++) {
#pragma unroll
          for (u32 i = 0; i < 4; i++) s[n][i] = fmaf(d[i / 2], high[n][i] + low[n][i], s[n][i]);
        }
      }
    } else {
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        u32 a[4], rest[4];
        keys.fragment(i, a, rest);
#pragma unroll
        for (u32 n = 0; n < TILES; n += 2) {
          const uint4 b = queries[(i * (TILES / 2) + n / 2) * 32];
          mma(s[n], a, b.x, b.y);
          mma(s[n + 1], a, b.z, b.w);
        }
      }
    }
  }

  // Of a lane's numbers for 2 * TILES columns, the largest over the lanes with the same columns; each lane keeps some.
  template <u32 COUNT>
  __device__ __forceinline__ void tops(float (&v)[2 * TILES], u32 mask, u32 base) {
    if constexpr (COUNT > 1) {
      const bool up = at.lane & mask;
#pragma unroll
      for (u32 j = 0; j < COUNT / 2; j++) {
        const float mine = up ? v[j + COUNT / 2] : v[j], other = up ? v[j] : v[j + COUNT / 2];
        v[j] = fmaxf(mine, __shfl_xor_sync(~0u, other, mask));
      }
      base += up ? COUNT / 2 : 0;
    } else {
      v[0] = fmaxf(v[0], __shfl_xor_sync(~0u, v[0], mask));
    }
    constexpr u32 LEFT = COUNT > 1 ? COUNT / 2 : 1;
    if (mask < 16) return tops<LEFT>(v, 2 * mask, base);
#pragma unroll
    for (u32 j = 0; j < LEFT; j++) {
      const u32 n = (base + j) / 2, i = (base + j) % 2;
      atomicMax(&columns.top[8 * n + 2 * at.t + i], ordered(v[j]));
    }
  }

  // Turns logits of a tile into weights in shared memory; `alpha` is what earlier sums are to be multiplied with.
  __device__ __forceinline__ void weigh(u32 start, bool edge, float (&s)[TILES][4], float (&alpha)[TILES][2]) {
    float most[2 * TILES];
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
      if (edge) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          const u32 c = 8 * n + 2 * at.t + i % 2, key = start + 16 * warp + at.g + i / 2 * 8;
          if (key < columns.first[c] || key > columns.last[c]) s[n][i] = LOWEST;
        }
      }
      most[2 * n] = fmaxf(s[n][0], s[n][2]);
      most[2 * n + 1] = fmaxf(s[n][1], s[n][3]);
    }
    tops<2 * TILES>(most, 4, 0);
    __syncthreads();
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
      const u32 c = 8 * n + 2 * at.t;
      const int2 tops = *reinterpret_cast<const int2*>(&columns.top[c]);
      const int2 old = *reinterpret_cast<const int2*>(&columns.before[odd][c]);
      if (warp == 0 && at.g == 0) *reinterpret_cast<int2*>(&columns.before[odd ^ 1][c]) = tops;
      const float now[2] = {unordered(tops.x), unordered(tops.y)};
      alpha[n][0] = exp2_of((unordered(old.x) - now[0]) * LOG2E);
      alpha[n][1] = exp2_of((unordered(old.y) - now[1]) * LOG2E);
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const float weight = exp2_of((s[n][i] - now[i % 2]) * LOG2E);
        s[n][i] = edge && s[n][i] == LOWEST ? 0.f : weight;
      }
#pragma unroll
      for (u32 i = 0; i < 2; i++) total[n][i] = fmaf(total[n][i], alpha[n][i], s[n][i] + s[n][i + 2]);
      put_weights(n, s[n]);
    }
    odd ^= 1;
    __syncthreads();
  }

  // Weights of 16 keys for eight columns, as operand B of the step that adds their values.
  __device__ __forceinline__ void put_weights(u32 n, const float (&s)[4]) const {
    constexpr float SCALE = weight_scale();
    const float w[4] = {s[0] * SCALE, s[1] * SCALE, s[2] * SCALE, s[3] * SCALE};
    if constexpr (!EXACT) {
      const u32 b0 = transposed(halves_of(w[0], w[1])), b1 = transposed(halves_of(w[2], w[3]));
      reinterpret_cast<uint2*>(p)[((warp * (TILES / 2) + n / 2) * 32 + at.lane) * 2 + n % 2] = make_uint2(b0, b1);
    } else {
      u32 high[2], low[2];
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        const float x = w[2 * i], y = w[2 * i + 1];
        if (V_KIND == KV_F16) {
          const u32 h = halves_of(x, y);
          high[i] = transposed(h);
          low[i] = transposed(halves_of(x - low_half(h), y - high_half(h)));
        } else {
          // Floats turn as their upper and their lower bits.
          const u32 h = transposed(bytes_of(__float_as_uint(x), __float_as_uint(y), 0x7632));
          const u32 l = transposed(bytes_of(__float_as_uint(x), __float_as_uint(y), 0x5410));
          high[i] = bytes_of(l, h, 0x5410);
          low[i] = bytes_of(l, h, 0x7632);
        }
      }
      const uint4 both = V_KIND == KV_F16 ? make_uint4(high[0], high[1], low[0], low[1])
                                          : make_uint4(high[0], low[0], high[1], low[1]);
      reinterpret_cast<uint4*>(p)[(warp * TILES + n) * 32 + at.lane] = both;
    }
  }
};
