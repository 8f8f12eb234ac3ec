// attention, prefill class: out[r, h] = sum over visible j of softmax_j(q[r, h] . key[j]) * value[j]
//
// Spec    core/src/ops/attention.rs
// Launch  x: tiles of `tile_rows` rows, y: key heads; DIM / 64 warps
//         units: DIM 128, 256, 512; K_KIND, V_KIND; EXACT 0 or 1. `attention__prefill_wide` needs more than 99 KB of shared
//         memory if DIM is 512
//
// A block takes the query heads of a key head for a tile of rows, and goes through the keys once for each sequence among
// the rows. common/attend_logits.cuh says why a row's bits do not depend on the others, nor on how a prompt is cut.

#include "common/attend.cuh"
#include "common/chain.cuh"

template <u32 TILES, u32 STAGES>
__device__ __forceinline__ void prefill(
    const float* q, const Cache& cache, const Output& to, const RowInfo* rows, const CudaAttentionParams& params,
    const StepState* step) {
  extern __shared__ __align__(128) u8 shared[];
  __shared__ Columns<8 * TILES> columns;
  // The last rows see the most: they start first.
  const u32 first_row = (gridDim.x - 1 - blockIdx.x) * params.tile_rows;
  if (first_row >= step->rows) return;
  Attend<TILES, STAGES> attend(shared, columns, cache, blockIdx.y);
  attend.set_columns(rows, first_row, min(params.tile_rows, step->rows - first_row), params, 0);
  Turn turn = attend.next_turn(0, 0, NOTHING);
  attend.begin(turn);
  attend.load_queries(q);
  __syncthreads();
#pragma unroll 1
  while (true) {
    attend.go(turn);
    turn = attend.next_turn(turn.slot + 1, 0, NOTHING);
    if (turn.slot == NOTHING) break;
    attend.begin(turn);
  }
  attend.finish();
#pragma unroll 1
  for (u32 tile = 0; tile < TILES; tile++) {
    attend.gather(tile);
#pragma unroll 1
    for (u32 c = 8 * tile + attend.warp; c < 8 * tile + 8; c += WARPS) {
      if (columns.slot[c] == NOTHING) continue;
      const float sum = attend.sum_of(c);
#pragma unroll 1
      for (u32 piece = 0; piece < PIECES; piece++) {
        float v[8];
        attend.row(c, piece, v);
        put_piece(to, columns.query[c], piece, v, sum);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention__prefill(
    const float* __restrict__ q, const u8* __restrict__ k, const u8* __restrict__ v, float* __restrict__ out,
    Prepared prepared, const RowInfo* __restrict__ rows, const u32* __restrict__ tables, CudaAttentionParams params,
    const StepState* __restrict__ step) {
  follow();
  const Cache cache = {k, v, tables, params.kv_heads, params.local};
  prefill<EXACT ? MANY_TILES : 4, MANY_STAGES>(q, cache, Output{out, prepared, params.heads}, rows, params, step);
}
TAKES_SHARED(attention__prefill, (Logits<EXACT ? MANY_TILES : 4, MANY_STAGES>::BYTES))

#if !EXACT
// Decoding TQ3_0 keys beside another type leaves no registers for eight, nor do codes of a byte beside halves.
constexpr bool MIXED = (K_KIND == KV_Q8_0 && V_KIND == KV_F16) || (K_KIND == KV_F16 && V_KIND == KV_Q8_0);
constexpr u32 WIDE_TILES = MIXED || (K_KIND == KV_TQ3_0 && V_KIND != KV_TQ3_0) ? 4 : 8;

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention__prefill_wide(
    const float* __restrict__ q, const u8* __restrict__ k, const u8* __restrict__ v, float* __restrict__ out,
    Prepared prepared, const RowInfo* __restrict__ rows, const u32* __restrict__ tables, CudaAttentionParams params,
    const StepState* __restrict__ step) {
  follow();
  const Cache cache = {k, v, tables, params.kv_heads, params.local};
  prefill<WIDE_TILES, MANY_STAGES>(q, cache, Output{out, prepared, params.heads}, rows, params, step);
}
TAKES_SHARED(attention__prefill_wide, (Logits<WIDE_TILES, MANY_STAGES>::BYTES))
#endif
