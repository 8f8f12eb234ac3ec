// attn_prepare: norms and turns the heads of a row; keys and values go to the cache.
//   queries  out[r, h] = rope(n(q[r, h]) * q_norm)                      n(x) = x / sqrt(mean(x^2) + eps)
//   cache    key = rope(n(k[r, h]) * k_norm), value = n(v[r, h]), or v[r, h] itself
//
// Spec    core/src/ops/attn_prepare.rs, core/src/kv_type.rs
// Launch  x: rows, y: heads + 2 kv_heads in blocks of HEADS_EACH; a warp a head; 512 floats of shared memory a warp
//
// Differs from the spec in f32 arithmetic; stored bytes follow from the f32 values exactly.

#include "common/heads.cuh"

extern "C" __global__ void __launch_bounds__(32 * HEADS_EACH, 2) attn_prepare(
    const float* __restrict__ qkv, const float* __restrict__ q_norm, const float* __restrict__ k_norm,
    const float* __restrict__ frequency, float* __restrict__ out, u8* k, u8* v, const RowInfo* __restrict__ rows,
    const u32* __restrict__ tables, CudaPrepareParams params, const StepState* __restrict__ step) {
  prepare_heads(qkv, HeadWeights{q_norm, k_norm, frequency}, out, k, v, rows, tables, params, step);
}
