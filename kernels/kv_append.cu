// kv_append: keys and values of rows that ask nothing go to the cache, as attn_prepare makes and stores them.
//
// Spec    core/src/ops/kv_append.rs, core/src/kv_type.rs
// Launch  x: rows, y: 2 kv_heads in blocks of HEADS_EACH; a warp a head; 512 floats of shared memory a warp. params.heads is 0

#include "common/heads.cuh"

extern "C" __global__ void __launch_bounds__(32 * HEADS_EACH, 2) kv_append(
    const float* __restrict__ kv, const float* __restrict__ k_norm, const float* __restrict__ frequency, u8* k, u8* v,
    const RowInfo* __restrict__ rows, const u32* __restrict__ tables, CudaPrepareParams params,
    const StepState* __restrict__ step) {
  prepare_heads(kv, HeadWeights{nullptr, k_norm, frequency}, nullptr, k, v, rows, tables, params, step);
}
