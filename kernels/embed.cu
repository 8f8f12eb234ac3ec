// embed: out[r, c] = table[token[r], c] * scale
//
// Spec    core/src/ops/embed.rs
// Launch  one block for each row: a warp for each 256 columns, at most ROW_WARPS; ROW_WIDE_THREADS where it is wide. A
//         unit for each type of the table.
//
//   embed             as above
//   embed__rms_norm   and its norm, for rows that fit the registers of a block

#include "common/chain.cuh"
#include "common/row.cuh"
#include "common/weight_at.cuh"

static __device__ __forceinline__ unsigned token_of(const RowInfo& info, const unsigned* sampled, unsigned vocab) {
  // Of a padding row anything may be here.
  const unsigned token = info.flags & 1u ? sampled[remembered(info)] : info.token;
  return min(token, vocab - 1);
}

static __device__ __forceinline__ void decode(float (&v)[EACH], const WeightView& table, unsigned token, unsigned c,
                                              const CudaEmbedParams& params) {
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) v[i] = c + i < params.cols ? weight_at(table, token, c + i) * params.scale : 0.f;
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
embed(const WeightView table,                // [vocab, cols]
      const RowInfo* __restrict__ rows,      // [rows]
      const unsigned* __restrict__ sampled,  // [PLACES, SLOTS]
      float* __restrict__ out,               // [rows, cols], or 0
      Prepared prepared,                     // out for products
      CudaEmbedParams params,
      const StepState* __restrict__ step) {
  follow();
  const unsigned row = blockIdx.x, cols = params.cols;
  if (row >= step->rows) return;
  const unsigned token = token_of(rows[row], sampled, params.vocab);
  for (unsigned block = warp_id(); block * PREPARED_BLOCK < cols; block += blockDim.x / WARP) {
    float v[EACH];
    decode(v, table, token, column_of(block), params);
    if (cols % 4 == 0) {
      put<true>(v, out, prepared, row, block, cols);
    } else {
      put<false>(v, out, prepared, row, block, cols);
    }
  }
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
embed__rms_norm(const WeightView table,                // [vocab, cols]
                const RowInfo* __restrict__ rows,      // [rows]
                const unsigned* __restrict__ sampled,  // [PLACES, SLOTS]
                const float* __restrict__ w,           // [cols]
                float* __restrict__ out,               // [rows, cols]
                float* __restrict__ next,              // [rows, cols], or 0
                Prepared next_prepared,                // next for products
                CudaEmbedParams params,
                const StepState* __restrict__ step) {
  follow();
  __shared__ float partial[WARP];
  const unsigned row = blockIdx.x, block = warp_id(), cols = params.cols;
  if (row >= step->rows) return;
  const unsigned token = token_of(rows[row], sampled, params.vocab);
  float v[EACH], factor[EACH];
  load<false>(factor, w, column_of(block), cols);
  decode(v, table, token, column_of(block), params);
  store<false>(out + size_t(row) * cols, v, column_of(block), cols);
  const float scale = inverse_rms(block_sum(sum_of_squares(v), partial), cols, params.eps);
  scale_by(v, v, scale, factor);
  if (cols % 4 == 0) {
    put<true>(v, next, next_prepared, row, block, cols);
  } else {
    put<false>(v, next, next_prepared, row, block, cols);
  }
}
