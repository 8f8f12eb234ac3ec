// attention, inner part of both classes, second half: weighted sums of values, and the way through the keys.
// attend_logits.cuh says how a block works.
#pragma once

#include "common/attend_logits.cuh"
#include "common/prepare.cuh"
#include "common/takes.cuh"

// Where results go.
struct Output {
  float* plain;       // [rows, heads, DIM], or 0
  Prepared prepared;  // blocks of 256 of the same rows
  u32 heads;
};

constexpr u32 PIECES = (DIM + 255) / 256;  // of a query's values

template <u32 TILES, u32 STAGES>
struct Attend : Logits<TILES, STAGES> {
  typedef Logits<TILES, STAGES> Base;
  using Base::Base;
  using Base::at;
  using Base::columns;
  using Base::o;
  using Base::out;
  using Base::p;
  using Base::warp;
  static constexpr u32 COLUMNS = Base::COLUMNS;
  typedef float Sums[4][TILES][4];

  // Columns that see a key with a value that is no number become NaN.
  static __device__ __noinline__ void breaks(Columns<COLUMNS>& columns, u32 key) {
#pragma unroll 1
    for (u32 c = 0; c < COLUMNS; c++) {
      if (key >= columns.first[c] && key <= columns.last[c]) columns.broken[c] = 1;
    }
  }

  // An operand without its values that are no numbers; `key` is that of its first column.
  static __device__ __noinline__ uint4 numbers_of(Columns<COLUMNS>& columns, uint4 operand, u32 key) {
    u32 a[4] = {operand.x, operand.y, operand.z, operand.w};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      if ((a[i] & 0x7c00u) == 0x7c00u) a[i] &= 0xffff0000u, breaks(columns, key + i / 2 * 8);
      if ((a[i] & 0x7c000000u) == 0x7c000000u) a[i] &= 0xffffu, breaks(columns, key + 1 + i / 2 * 8);
    }
    return make_uint4(a[0], a[1], a[2], a[3]);
  }

  // Takes values that are no numbers out of an operand: a weight of 0 would not.
  __device__ __forceinline__ void guard(u32 (&a)[4], u32 key) {
    // An exponent of ones overflows to the sign.
    u32 carries = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) carries |= (a[i] & 0x7c007c00u) + 0x04000400u;
    if ((carries & 0x80008000u) == 0) return;
    const uint4 clean = numbers_of(columns, make_uint4(a[0], a[1], a[2], a[3]), key + 2 * at.t);
    a[0] = clean.x; a[1] = clean.y; a[2] = clean.z; a[3] = clean.w;
  }

  // Operand B of 16 keys: two parts of the weights, times the scales of the values of tile m where they have some. At an edge scales
  // may be anything where a weight is 0; elsewhere all columns see them, and get NaN of one that is no number.
  __device__ __forceinline__ void exact_weights(const ValueChunk<V_KIND>& values, u32 j, u32 m, bool edge, u32 (&b)[TILES][4]) {
    float d[4] = {1.f, 1.f, 1.f, 1.f};
    if (V_KIND != KV_F16) {
      u32 d01, d23;
      values.scales(m, d01, d23);
      d[0] = low_half(d01); d[1] = high_half(d01); d[2] = low_half(d23); d[3] = high_half(d23);
    }
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
      const uint4 x = reinterpret_cast<const uint4*>(p)[(j * TILES + n) * 32 + at.lane];
      if (V_KIND == KV_F16) {
        b[n][0] = x.x; b[n][1] = x.y; b[n][2] = x.z; b[n][3] = x.w;
        continue;
      }
      const u32 bits[4] = {x.x, x.y, x.z, x.w};
      float w[4];
#pragma unroll
      for (u32 i = 0; i < 4; i++) w[i] = __uint_as_float(bits[i]) * d[i];
      if (edge) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) w[i] = __uint_as_float(bits[i]) == 0.f ? 0.f : w[i];
      }
      b[n][0] = halves_of(w[0], w[1]);
      b[n][1] = halves_of(w[2], w[3]);
      b[n][2] = halves_of(w[0] - low_half(b[n][0]), w[1] - high_half(b[n][0]));
      b[n][3] = halves_of(w[2] - low_half(b[n][1]), w[3] - high_half(b[n][1]));
    }
  }

  // Adds 64 values of 16 keys, number `j` of the tile, from `key` on.
  __device__ __forceinline__ void values(const u8* chunk, u32 j, u32 key, bool edge, Sums& sums) {
    ValueChunk<V_KIND> values(chunk, at);
    u32 b[TILES][4];
    if constexpr (!EXACT) {
#pragma unroll
      for (u32 n = 0; n < TILES; n += 2) {
        const uint4 x = reinterpret_cast<const uint4*>(p)[(j * (TILES / 2) + n / 2) * 32 + at.lane];
        b[n][0] = x.x; b[n][1] = x.y; b[n + 1][0] = x.z; b[n + 1][1] = x.w;
      }
    }
#pragma unroll
    for (u32 m = 0; m < 4; m++) {
      if constexpr (EXACT) {
        if (m == 0 || (m == 2 && (V_KIND == KV_Q8_0 || V_KIND == KV_Q4_0))) exact_weights(values, j, m, edge, b);
      }
      u32 a[4], rest[4];
      values.fragment(m, a, rest);
      if ((!EXACT || V_KIND == KV_F16) && edge) guard(a, key);
#pragma unroll
      for (u32 n = 0; n < TILES; n++) {
        mma(sums[m][n], a, b[n][0], b[n][1]);
        if (EXACT) mma(sums[m][n], a, b[n][2], b[n][3]);
        if (EXACT && V_KIND == KV_TQ3_0) mma(sums[m][n], rest, b[n][0], b[n][1]);
      }
    }
  }

  // Multiplies the sums of all columns and adds others.
  __device__ __forceinline__ void rescale(const float (&alpha)[TILES][2], const Sums* more) {
#pragma unroll
    for (u32 m = 0; m < 4; m++) {
#pragma unroll
      for (u32 n = 0; n < TILES; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) o[m][n][i] = fmaf(o[m][n][i], alpha[n][i % 2], more ? (*more)[m][n][i] : 0.f);
      }
    }
  }

  // The lowest slot from `from` on among the columns, and the keys that they see of it, within `first` to `last`.
  __device__ Turn next_turn(u32 from, u32 first, u32 last) {
    Turn turn = {NOTHING, NOTHING, 0};
    Seen inner = {0, NOTHING};
#pragma unroll
    for (u32 c = at.lane; c < COLUMNS; c += 32) {
      const u32 slot = columns.slot[c];
      if (slot >= from) turn.slot = min(turn.slot, slot);
    }
    turn.slot = __reduce_min_sync(~0u, turn.slot);
    if (turn.slot == NOTHING) return turn;
#pragma unroll
    for (u32 c = at.lane; c < COLUMNS; c += 32) {
      const u32 slot = columns.slot[c];
      const Seen seen = columns.seen[c];
      if (slot == NOTHING) continue;
      const bool in = slot == turn.slot;
      inner.first = in ? max(inner.first, seen.first) : NOTHING;
      inner.last = in ? min(inner.last, seen.last) : 0;
      turn.first = in ? min(turn.first, seen.first) : turn.first;
      turn.last = in ? max(turn.last, seen.last) : turn.last;
    }
    inner.first = __reduce_max_sync(~0u, inner.first);
    inner.last = __reduce_min_sync(~0u, inner.last);
    turn.first = __reduce_min_sync(~0u, turn.first);
    turn.last = __reduce_max_sync(~0u, turn.last);
    turn.first = max(turn.first, first);
    turn.last = min(turn.last, last);
    __syncthreads();
    if (thread_anew() == 0) columns.inner = inner;
#pragma unroll 1
    for (u32 c = thread_anew(); c < COLUMNS; c += THREADS) {
      const bool in = columns.slot[c] == turn.slot;
      columns.first[c] = in ? columns.seen[c].first : NOTHING;
      columns.last[c] = in ? columns.seen[c].last : 0;
    }
    __syncthreads();
    return turn;
  }

  // Begins to copy the keys of a turn: only `go` may follow, perhaps after something that needs no keys.
  __device__ void begin(const Turn& turn) {
    Base::aim(turn);
    begin();
  }

  // The same of the turn that it aims at.
  __device__ __forceinline__ void begin() {
#pragma unroll 1
    for (u32 i = 0; i + 1 < STAGES; i++) Base::feed();
  }

  // Whether it does, behind `aim`.
  __device__ __forceinline__ bool begun() const { return Base::put > 0; }

  // Takes all columns through the keys of a turn.
  __device__ void go(const Turn& turn) {
#pragma unroll 1
    for (u32 tile = turn.first / KEYS; tile <= turn.last / KEYS; tile++) {
      const u32 start = tile * KEYS;
      const bool edge = start < columns.inner.first || start + KEYS - 1 > columns.inner.last;
      float s[TILES][4] = {}, alpha[TILES][2];
#pragma unroll 1
      for (u32 c = 0; c < WARPS; c++) Base::logits(Base::next(), c, s);
      Base::weigh(start, edge, s, alpha);
      const u32 chunks = tile == turn.last / KEYS ? Base::chunks_of(turn) : WARPS;
      if constexpr (EXACT) {
        // Tensor cores cut off what they round: sums of a tile are added up apart.
        Sums sums = {};
#pragma unroll 1
        for (u32 j = 0; j < chunks; j++) values(Base::next(), j, start + 16 * j, edge, sums);
        rescale(alpha, &sums);
      } else {
        rescale(alpha, nullptr);
#pragma unroll 1
        for (u32 j = 0; j < chunks; j++) values(Base::next(), j, start + 16 * j, edge, o);
      }
    }
    copies_wait<0>();
  }

  // Sums of weights of all columns; none of the calls above may follow.
  __device__ void finish() {
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        float sum = Base::total[n][i];
        for (u32 mask = 4; mask < 32; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
        if (at.g == 0) columns.sums[warp][8 * n + 2 * at.t + i] = sum;
      }
    }
  }

  // Brings the sums of columns 8 `tile` to 8 `tile` + 7 to where `row` finds them.
  __device__ void gather(u32 tile) {
    __syncthreads();
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
      if (n != tile) continue;
#pragma unroll
      for (u32 m = 0; m < 4; m++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          const u32 value = 64 * warp + value_at(V_KIND, m, i / 2, at.g);
          out[(2 * at.t + i % 2) * Base::OUT_STRIDE + value] = o[m][n][i];
        }
      }
    }
    __syncthreads();
  }

  // Values 256 piece + 8 l to + 7, for lane l, of the weighted sum of a column of the gathered ones.
  __device__ void row(u32 c, u32 piece, float (&v)[8]) {
    constexpr float SCALE = 1.f / weight_scale() / (EXACT && V_KIND == KV_TQ3_0 ? 1024.f : 1.f);
    const float factor = columns.broken[c] ? __int_as_float(0x7fffffff) : SCALE;
    const u32 value = 256 * piece + 8 * (thread_anew() % 32);
    const float* from = out + c % 8 * Base::OUT_STRIDE + value;
#pragma unroll
    for (u32 i = 0; i < 8; i++) v[i] = value < DIM ? from[i] * factor : 0.f;
  }

  // The sum of weights of a column.
  __device__ float sum_of(u32 c) const {
    float sum = 0.f;
    for (u32 w = 0; w < WARPS; w++) sum += columns.sums[w][c];
    return sum;
  }
};

// Writes a piece of the result of a query: its weighted sum times the inverse of the sum of its weights, turned back if values
// are rotated.
__device__ __forceinline__ void put_piece(const Output& to, u32 query, u32 piece, float (&v)[8], float sum) {
  const u32 value = 256 * piece + 8 * (thread_anew() % 32);
  const float inverse = __fdiv_rn(1.f, sum);
#pragma unroll
  for (u32 i = 0; i < 8; i++) v[i] = __fmul_rn(v[i], inverse);
  if (V_KIND == KV_TQ3_0) rotate<8>(v, true);
  if (to.plain && value < DIM) {
    float4* row = reinterpret_cast<float4*>(to.plain + size_t(query) * DIM + value);
    row[0] = make_float4(v[0], v[1], v[2], v[3]);
    row[1] = make_float4(v[4], v[5], v[6], v[7]);
  }
  if (DIM >= 256 && to.prepared.base) prepare256(v, to.prepared, query / to.heads, query % to.heads * PIECES + piece);
}
