// ple_inputs: out[r, l, i] = (RMSNorm(context[r, l, ..] / sqrt(hidden))[i] * norm[i]
//                             + table[token[r], l, i] * sqrt(ple)) / sqrt(2)
//
// Spec    core/src/ops/ple_inputs.rs
// Launch  x: layers, PLE_WARPS a block, a warp each; y: rows. A unit for each type of the table.
// Differs from the spec in the order of the sum (f32: 8 columns of a lane, lanes) and in rsqrtf.
//
// The table lies in host memory, as files have it. What a warp needs of it is read once, 16 bytes a lane, before anything
// else: each read crosses the bus. The bytes around it are read too, up to the 16 bytes that it begins and ends in: memory is
// mapped by the page.

#include "common/chain.cuh"
#include "common/raw.cuh"
#include "common/row.cuh"

using W = raw::WEIGHT;

// The bytes of up to 256 columns of a row of the table, on their way through registers to shared memory.
struct Window {
  static constexpr unsigned QUADS = 3;
  // 256 floats, and 15 bytes more at each end.
  static constexpr unsigned BYTES = 1024 + 32;
  uint4 quads[QUADS];
  unsigned skew;  // of the first block that is needed, in bytes

  __device__ __forceinline__ void fetch(const u8* row, unsigned c, unsigned columns) {
    const unsigned start = c / W::VALUES * W::BYTES, end = (c + columns + W::VALUES - 1) / W::VALUES * W::BYTES;
    const u8* from = row + start;
    skew = reinterpret_cast<size_t>(from) % 16;
#pragma unroll
    for (unsigned i = 0; i < QUADS; i++) {
      const unsigned at = (i * WARP + lane_id()) * 16;
      if (at < skew + (end - start)) quads[i] = __ldcs(reinterpret_cast<const uint4*>(from - skew + at));
    }
  }

  __device__ __forceinline__ void put(u8* to) const {
#pragma unroll
    for (unsigned i = 0; i < QUADS; i++) {
      const unsigned at = (i * WARP + lane_id()) * 16;
      if (at < BYTES) *reinterpret_cast<uint4*>(to + at) = quads[i];
    }
  }
};

template <bool QUADS>
static __device__ __forceinline__ void layer_of(const float* __restrict__ context, const u8* __restrict__ table,
                                                const float* __restrict__ norm, float* __restrict__ out, u8* bytes,
                                                unsigned token, unsigned layer, const CudaPleInputsParams& params) {
  const unsigned ple = params.ple, first = layer * ple, own = lane_id() * EACH;
  const u8* row = table + size_t(token) * params.row_bytes;
  Window window = {};
  window.fetch(row, first, min(PREPARED_BLOCK, ple));
  context += first;
  float v[EACH], w[EACH];
  float squares = 0.f;
  for (unsigned start = 0; start < ple; start += PREPARED_BLOCK) {
    load<QUADS>(v, context, start + own, ple);
    squares += sum_of_squares(v);
  }
  const float mean = __fdividef(warp_sum(squares), float(ple)) * params.context_scale * params.context_scale;
  const float scale = params.context_scale * rsqrtf(mean + params.eps);
  for (unsigned start = 0; start < ple; start += PREPARED_BLOCK) {
    load<QUADS>(v, context, start + own, ple);
    load<QUADS>(w, norm, start + own, ple);
    __syncwarp();
    window.put(bytes);
    __syncwarp();
    const u8* blocks = bytes + window.skew;
    if (start + PREPARED_BLOCK < ple) {
      const unsigned next = start + PREPARED_BLOCK;
      window.fetch(row, first + next, min(PREPARED_BLOCK, ple - next));
    }
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
      const unsigned c = first + start + own + i;
      float a = 0.f;
      if (start + own + i < ple) {
        // Counted from the first block of the window.
        const unsigned at = c - (first + start) / W::VALUES * W::VALUES;
        a = W::at(blocks + at / W::VALUES * W::BYTES, at % W::VALUES);
      }
      v[i] = fmaf(v[i] * scale, w[i], a * params.table_scale) * 0.70710678f;
    }
    store<QUADS>(out + first, v, start + own, ple);
  }
}

extern "C" __global__ void __launch_bounds__(PLE_WARPS * WARP, 8)
ple_inputs(const float* __restrict__ context,     // [rows, layers, ple]
           const u8* __restrict__ table,          // [vocab, layers * ple]
           const float* __restrict__ norm,        // [ple]
           const RowInfo* __restrict__ rows,      // [rows]
           const unsigned* __restrict__ sampled,  // [PLACES, SLOTS]
           float* __restrict__ out,               // [rows, layers, ple]
           CudaPleInputsParams params,
           const StepState* __restrict__ step) {
  follow();
  __shared__ __align__(16) u8 windows[PLE_WARPS][Window::BYTES];
  u8* bytes = windows[warp_id()];
  const unsigned row = blockIdx.y, layer = blockIdx.x * PLE_WARPS + warp_id();
  if (row >= step->rows || layer * params.ple >= params.cols) return;
  const RowInfo info = rows[row];
  const unsigned token = min(info.flags & 1u ? sampled[remembered(info)] : info.token, params.vocab - 1);
  context += size_t(row) * params.cols;
  out += size_t(row) * params.cols;
  if (params.ple % 4 == 0) {
    layer_of<true>(context, table, norm, out, bytes, token, layer, params);
  } else {
    layer_of<false>(context, table, norm, out, bytes, token, layer, params);
  }
}
