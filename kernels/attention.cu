// attention, decode class: out[r, h] = sum over visible j of softmax_j(q[r, h] . key[j]) * value[j]
//
// Spec    core/src/ops/attention.rs
// Launch  x: key heads, y: splits + 2; DIM / 64 warps. Few parts of a short context have keys: their blocks begin first
//         units: DIM 128, 256, 512; K_KIND, V_KIND. `attention` takes one row and up to 8 query heads of a key head,
//         `attn_prepare__attention` one row whose heads are not prepared yet
//         attention__rows: x: a few times as many blocks as the device has at once, which share the work of all rows: a block for
//         each part of each row has nothing to do where contexts are short, and would keep others from beginning. It takes up to
//         MANY_TILES columns of 8: many rows of one sequence read keys together
//         attn_prepare__rows: as attn_prepare, whose heads and types it knows
//
// Keys of a row are cut into at most `splits` parts (one more in a window, which starts anywhere) of whole tiles, at
// absolute multiples of a size that follows from how many they are. So its result does not depend on other rows.
// Each block takes one part and leaves a record: largest logit, sum of weights, weighted values. The last block of `fan`
// parts adds their records up, the last of those blocks the sums, both upwards. Counters turn back to 0 by themselves.

#define EXACT 1
#define MANY_TURNS
#include "common/attend.cuh"
#include "common/attend_own.cuh"
#include "common/attend_work.cuh"
#include "common/chain.cuh"
#include "common/reduce.cuh"

// float4s of a record: largest logit and sum of weights of a part, then those of a group of parts, and the values of either.
// Pieces of a group are added up by different warps, and each reads what all parts of it have.
constexpr u32 RECORD = DIM / 4 + 1;

// Records that are added up: number 0 is at `zero`, number i > 0 at `one` + (i - 1) * `each`.
struct Series {
  u32 zero, one, each, count;
  __device__ u32 at(u32 i) const { return i == 0 ? zero : one + (i - 1) * each; }
};

// What the records of a series of at most 32, of parts or of groups, are to be multiplied with, each lane its own, and the stats of
// their sum.
__device__ float2 weights_of(const float4* records, const Series& series, bool groups, float& weight) {
  const u32 lane = thread_anew() % 32;
  float2 stat = make_float2(LOWEST, 0.f);
  if (lane < series.count) {
    const float4 both = fresh(records + series.at(lane) * RECORD);
    stat = groups ? make_float2(both.z, both.w) : make_float2(both.x, both.y);
  }
  float top = stat.x;
  for (u32 mask = 1; mask < 32; mask *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, mask));
  weight = lane < series.count ? exp2_of((stat.x - top) * LOG2E) : 0.f;
  float sum = weight * stat.y;
  for (u32 mask = 1; mask < 32; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  return make_float2(top, sum);
}

// Records of a series that are under way together, for a piece; those that are not there are zeros.
constexpr u32 TOGETHER = DIM > 256 ? 6 : 9;
typedef float4 Records[TOGETHER][2];

__device__ __forceinline__ void load_records(const float4* records, const Series& series, u32 first, u32 piece, Records& x) {
  const u32 value = 256 * piece + 8 * (thread_anew() % 32);
#pragma unroll
  for (u32 k = 0; k < TOGETHER; k++) {
    const bool there = first + k < series.count && value < DIM;
    const float4* record = records + series.at(first + k) * RECORD + 1 + value / 4;
    x[k][0] = there ? fresh(record) : make_float4(0.f, 0.f, 0.f, 0.f);
    x[k][1] = there ? fresh(record + 1) : make_float4(0.f, 0.f, 0.f, 0.f);
  }
}

// A piece of the sum of a series. `x`: its first records of that piece.
__device__ __forceinline__ void add_records(const float4* records, const Series& series, float weight, u32 piece, Records& x,
                                            float (&v)[8]) {
#pragma unroll
  for (u32 j = 0; j < 8; j++) v[j] = 0.f;
#pragma unroll 1
  for (u32 first = 0; first < series.count; first += TOGETHER) {
    if (first > 0) load_records(records, series, first, piece, x);
#pragma unroll
    for (u32 k = 0; k < TOGETHER; k++) {
      const float w = __shfl_sync(~0u, weight, first + k);
      const float y[8] = {x[k][0].x, x[k][0].y, x[k][0].z, x[k][0].w, x[k][1].x, x[k][1].y, x[k][1].z, x[k][1].w};
#pragma unroll
      for (u32 j = 0; j < 8; j++) v[j] = fmaf(w, y[j], v[j]);
    }
  }
}

__device__ __forceinline__ void put_record(float4* record, u32 piece, const float (&v)[8], bool group, float2 stat) {
  const u32 lane = thread_anew() % 32, value = 256 * piece + 8 * lane;
  if (piece == 0 && lane == 0) reinterpret_cast<float2*>(record)[group] = stat;
  if (value >= DIM) return;
  record[1 + value / 4] = make_float4(v[0], v[1], v[2], v[3]);
  record[2 + value / 4] = make_float4(v[4], v[5], v[6], v[7]);
}

// Queries that an earlier kernel made, as it made the newest keys and values.
template <class Attend>
struct Given {
  const float* q;
  __device__ __forceinline__ void ahead(Attend& attend, const Turn& turn, const RowInfo&, bool, u32) const { attend.aim(turn); }
  __device__ __forceinline__ void go(Attend& attend, u32) const {
    attend.begin();
    attend.load_queries(q);
  }
};

template <u32 TILES, u32 STAGES, class Heads>
__device__ __forceinline__ void split(
    Heads heads, const Cache& cache, const Output& to, float4* records, u32* arrived, const RowInfo* rows,
    const CudaAttentionParams& params, const Work& work) {
  extern __shared__ __align__(128) u8 shared[];
  __shared__ Columns<8 * TILES> columns;
  if (work.part > work.last) return;  // the block of the first part waits
  Attend<TILES, STAGES> attend(shared, columns, cache, work.head, thread_anew());
  attend.set_columns(rows, work.row, work.count, params, params.reach);
  const Turn turn = attend.next_turn(0, work.part * work.keys, work.part * work.keys + work.keys - 1);
  heads.ahead(attend, turn, rows[work.row], work.part == work.last, params.group);
  follow();
  heads.go(attend, params.group);
  __syncthreads();
  attend.go(turn);
  attend.finish();

  // The parts of a column, and where their records are.
  const u32 part = work.part, first = work.first, last = work.last, keys = work.keys, fan = params.fan;
  const auto first_of = [&](u32 c) { return columns.seen[c].first / keys; };
  const auto last_of = [&](u32 c) { return columns.seen[c].last / keys; };
  const auto records_of = [&](u32 c) { return records + size_t(columns.query[c]) * (params.splits + 1) * RECORD; };
#pragma unroll 1
  for (u32 tile = 0; tile < TILES; tile++) {
    attend.gather(tile);
#pragma unroll 1
    for (u32 job = attend.warp; job < 8 * PIECES; job += WARPS) {
      const u32 c = 8 * tile + job / PIECES, piece = job % PIECES;
      if (columns.slot[c] == NOTHING || part < first_of(c) || part > last_of(c)) continue;
      const float2 stat = make_float2(unordered(columns.top[c]), attend.sum_of(c));
      float v[8];
      attend.row(c, piece, v);
      if (first < last) {
        put_record(records_of(c) + (part - first_of(c)) * RECORD, piece, v, false, stat);
        continue;
      }
#pragma unroll
      for (u32 j = 0; j < 8; j++) v[j] = __fadd_rn(v[j], 0.f);  // no negative zeros, as adding up leaves none
      put_piece(to, columns.query[c], piece, v, stat.y);
    }
  }

  if (first == last) return;  // a single part is all there is: adding it up would change no bit

  // First the parts of a group of `fan`, then the groups.
  const u32 mine = part / fan, groups = last / fan - first / fan + 1;
  u32* counters = arrived + (work.row * cache.kv_heads + work.head) * (params.splits / fan + 4);
#pragma unroll 1
  for (u32 level = 0; level < 2; level++) {
    const u32 parts = min(last, mine * fan + fan - 1) - max(first, mine * fan) + 1;
    if (!last_block(counters + (level ? 0 : 1 + mine - first / fan), level ? groups : parts)) return;
    const bool done = level == 1 || groups == 1;
#pragma unroll 1
    for (u32 job = attend.warp; job < 8 * TILES * PIECES; job += WARPS) {
      const u32 c = job / PIECES, piece = job % PIECES;
      if (columns.slot[c] == NOTHING) continue;
      const u32 begin = first_of(c), end = last_of(c);
      const u32 from = max(begin, mine * fan), to_part = min(end, mine * fan + fan - 1);
      if (level == 0 && from > to_part) continue;
      const Series series = level ? Series{0, fan - begin % fan, fan, end / fan - begin / fan + 1}
                                  : Series{from - begin, from - begin + 1, 1, to_part - from + 1};
      Records x;
      load_records(records_of(c), series, 0, piece, x);
      float weight, v[8];
      const float2 stat = weights_of(records_of(c), series, level > 0, weight);
      add_records(records_of(c), series, weight, piece, x, v);
      if (done) put_piece(to, columns.query[c], piece, v, stat.y);
      else put_record(records_of(c) + (from - begin) * RECORD, piece, v, true, stat);
    }
    if (done) return;
  }
}

template <u32 TILES, u32 STAGES>
__device__ __forceinline__ void split_given(
    const float* q, const Cache& cache, const Output& to, float4* records, u32* arrived, const RowInfo* rows,
    const CudaAttentionParams& params, const Work& work) {
  split<TILES, STAGES>(Given<Attend<TILES, STAGES>>{q}, cache, to, records, arrived, rows, params, work);
}

#define ARGUMENTS                                                                                                     \
  const u8 *__restrict__ k, const u8 *__restrict__ v, float *__restrict__ out, Prepared prepared, float4 *records,    \
      u32 *arrived, const RowInfo *__restrict__ rows, const u32 *__restrict__ tables, CudaAttentionParams params,     \
      const StepState *__restrict__ step

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) attention(const float* __restrict__ q, ARGUMENTS) {
  if (step->rows == 0) return follow();
  const Cache cache = {k, v, tables, params.kv_heads, params.local};
  const Output to = {out, prepared, params.heads};
  split_given<1, ONE_STAGES>(q, cache, to, records, arrived, rows, params, work_alone(rows, params));
}

// Two types take more registers than one.
constexpr u32 OWN_RESIDENT = K_KIND == V_KIND ? RESIDENT : 1;

// Pools of the cache are read and written.
extern "C" __global__ void __launch_bounds__(THREADS, OWN_RESIDENT) attn_prepare__attention(
    const float* __restrict__ qkv, const float* __restrict__ q_norm, const float* __restrict__ k_norm,
    const float* __restrict__ frequency, u8* own_k, u8* own_v, CudaPrepareParams own, const u8* k, const u8* v,
    float* __restrict__ out, Prepared prepared, float4* records, u32* arrived, const RowInfo* __restrict__ rows,
    const u32* __restrict__ tables, CudaAttentionParams params, const StepState* __restrict__ step) {
  if (step->rows == 0) return follow();
  const Cache cache = {k, v, tables, params.kv_heads, params.local};
  const Output to = {out, prepared, params.heads};
  const OwnHeads<Attend<1, ONE_STAGES>> heads(qkv, HeadWeights{q_norm, k_norm, frequency}, own, own_k, own_v);
  split<1, ONE_STAGES>(heads, cache, to, records, arrived, rows, params, work_alone(rows, params));
}

extern "C" __global__ void __launch_bounds__(32 * HEADS_EACH, 2) attn_prepare__rows(
    const float* __restrict__ qkv, const float* __restrict__ q_norm, const float* __restrict__ k_norm,
    const float* __restrict__ frequency, float* __restrict__ out, u8* k, u8* v, const RowInfo* __restrict__ rows,
    const u32* __restrict__ tables, CudaPrepareParams params, const StepState* __restrict__ step) {
  prepare_known_heads<DIM, K_KIND, V_KIND>(qkv, HeadWeights{q_norm, k_norm, frequency}, out, k, v, rows, tables, params, step);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention__rows(const float* __restrict__ q, ARGUMENTS) {
  if (step->rows == 0) return follow();
  __shared__ Work work;
#pragma unroll 1
  for (u32 round = 0;; round++) {
    const Work found = work_of(rows, ahead(&step->rows), round * gridDim.x + blockIdx.x, params);
    if (found.count == 0) return;  // the block of work 0 waits
    if (thread_anew() == 0) work = found;
    __syncthreads();
    const Cache cache = {k, v, tables, params.kv_heads, params.local};
    const Output to = {out, prepared, params.heads};
    if (found.count * params.group <= 8) {
      split_given<1, MANY_STAGES>(q, cache, to, records, arrived, rows, params, work);
    } else {
      split_given<MANY_TILES, MANY_STAGES>(q, cache, to, records, arrived, rows, params, work);
    }
    __syncthreads();  // all of that is the next one's
  }
}
TAKES_SHARED(attention, (Logits<1, ONE_STAGES>::BYTES))
TAKES_SHARED(attn_prepare__attention, (Logits<1, ONE_STAGES>::BYTES))
TAKES_SHARED(attention__rows, (Logits<MANY_TILES, MANY_STAGES>::BYTES))
