// Rows of activations in registers: a warp owns whole blocks of 256 columns, and lane l has columns 8 l to 8 l + 7 of a
// block, so that it may end in `prepare256`. Columns past the end of a row are zero and not stored.
//
// `QUADS`: rows and what is added to them start at 16 bytes, because all widths are multiples of four.
#pragma once

#include "common/chain.cuh"
#include "common/copy.cuh"
#include "common/prepare.cuh"
#include "common/reduce.cuh"

// Columns of a lane.
constexpr unsigned EACH = 8u;

// Where the token of a row is that takes one of those remembered of its slot. Of a padding row anything may be here.
static __device__ __forceinline__ unsigned remembered(const RowInfo& info) {
  return info.slot % SLOTS + SLOTS * (info.flags >> 1 & (PLACES - 1));
}

// First column of this lane in a block.
static __device__ __forceinline__ unsigned column_of(unsigned block) { return block * PREPARED_BLOCK + lane_id() * EACH; }

// Columns c to c + 7 of a row of `cols`.
template <bool QUADS>
static __device__ __forceinline__ void load(float (&v)[EACH], const float* __restrict__ row, unsigned c, unsigned cols) {
  if constexpr (QUADS) {
#pragma unroll
    for (unsigned i = 0; i < EACH; i += 4) {
      float4 quad = make_float4(0.f, 0.f, 0.f, 0.f);
      if (c + i < cols) quad = *reinterpret_cast<const float4*>(row + c + i);
      v[i] = quad.x, v[i + 1] = quad.y, v[i + 2] = quad.z, v[i + 3] = quad.w;
    }
  } else {
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) v[i] = c + i < cols ? row[c + i] : 0.f;
  }
}

// The same ahead of `follow`, of a weight.
template <bool QUADS>
static __device__ __forceinline__ void load_ahead(float (&v)[EACH], const float* weight, unsigned c, unsigned cols) {
  if constexpr (QUADS) {
#pragma unroll
    for (unsigned i = 0; i < EACH; i += 4) {
      float4 quad = make_float4(0.f, 0.f, 0.f, 0.f);
      if (c + i < cols) quad = ahead(reinterpret_cast<const float4*>(weight + c + i));
      v[i] = quad.x, v[i + 1] = quad.y, v[i + 2] = quad.z, v[i + 3] = quad.w;
    }
  } else {
    load<false>(v, weight, c, cols);
  }
}

// Begins to bring those of a row to shared memory, each lane's own two quads: they take no registers on their way.
template <bool QUADS>
static __device__ __forceinline__ void fetch(float4* to, const float* row, unsigned c, unsigned cols) {
  if constexpr (QUADS) {
    copy16_if(to, row + c, c < cols);
    copy16_if(to + 1, row + c + 4, c + 4 < cols);
  } else {
    float v[EACH];
    load<false>(v, row, c, cols);
    to[0] = make_float4(v[0], v[1], v[2], v[3]), to[1] = make_float4(v[4], v[5], v[6], v[7]);
  }
}

// What came there.
static __device__ __forceinline__ void fetched(float (&v)[EACH], const float4* from) {
  const float4 a = from[0], b = from[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// The rows of a step, or the picked ones, ahead of `follow`.
static __device__ __forceinline__ unsigned rows_of(const StepState* step, unsigned picked) {
  return ahead(picked ? &step->picked : &step->rows);
}

// Planes that are loaded together. Of the last ones some may not be there: those are zeros, and adding one may change the
// sign of a zero, nothing else. A loop over what is left would wait for each.
constexpr unsigned TOGETHER = 4u;

// The sum of `planes`, `stride` elements from one to the next, in their order.
template <bool QUADS, unsigned TOGETHER = ::TOGETHER>
static __device__ __forceinline__ void load_planes(float (&v)[EACH], const float* __restrict__ row, unsigned planes,
                                                   unsigned stride, unsigned c, unsigned cols) {
  load<QUADS>(v, row, c, cols);
#pragma unroll 1
  for (unsigned first = 1; first < planes; first += TOGETHER) {
    float more[TOGETHER][EACH];
#pragma unroll
    for (unsigned k = 0; k < TOGETHER; k++)
      load<QUADS>(more[k], row + size_t(first + k) * stride, c, first + k < planes ? cols : 0u);
#pragma unroll
    for (unsigned k = 0; k < TOGETHER; k++) {
#pragma unroll
      for (unsigned i = 0; i < EACH; i++) v[i] += more[k][i];
    }
  }
}

// A row of which there are planes.
struct PlanesOf {
  const float* row;
  unsigned planes, stride;
};

// Two such sums at once: all loads are under way before the first addition waits for one.
template <bool QUADS>
static __device__ __forceinline__ void load_two(float (&a)[EACH], const PlanesOf& of_a, float (&b)[EACH],
                                                const PlanesOf& of_b, unsigned c, unsigned cols) {
  load<QUADS>(a, of_a.row, c, cols);
  load<QUADS>(b, of_b.row, c, cols);
#pragma unroll 1
  for (unsigned first = 1; first < max(of_a.planes, of_b.planes); first += TOGETHER) {
    float more[TOGETHER][EACH], other[TOGETHER][EACH];
#pragma unroll
    for (unsigned k = 0; k < TOGETHER; k++) {
      const unsigned plane = first + k;
      load<QUADS>(more[k], of_a.row + size_t(plane) * of_a.stride, c, plane < of_a.planes ? cols : 0u);
      load<QUADS>(other[k], of_b.row + size_t(plane) * of_b.stride, c, plane < of_b.planes ? cols : 0u);
    }
#pragma unroll
    for (unsigned k = 0; k < TOGETHER; k++) {
#pragma unroll
      for (unsigned i = 0; i < EACH; i++) a[i] += more[k][i], b[i] += other[k][i];
    }
  }
}

template <bool QUADS>
static __device__ __forceinline__ void store(float* __restrict__ row, const float (&v)[EACH], unsigned c, unsigned cols) {
  if constexpr (QUADS) {
#pragma unroll
    for (unsigned i = 0; i < EACH; i += 4) {
      if (c + i < cols) *reinterpret_cast<float4*>(row + c + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
  } else {
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
      if (c + i < cols) row[c + i] = v[i];
    }
  }
}

// Hands a block of a row to whoever wants it: as floats, prepared for products, or both.
template <bool QUADS>
static __device__ __forceinline__ void put(const float (&v)[EACH], float* __restrict__ plain, const Prepared& prepared,
                                           unsigned row, unsigned block, unsigned cols) {
  if (plain) store<QUADS>(plain + size_t(row) * cols, v, column_of(block), cols);
  if (prepared.base) prepare256(v, prepared, row, block);
}

static __device__ __forceinline__ float sum_of_squares(const float (&v)[EACH]) {
  float sum = 0.f;
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) sum = fmaf(v[i], v[i], sum);
  return sum;
}

// 1 / sqrt(mean + eps) of a row with this sum of squares. Quotient and root err by 2 units in the last place each.
static __device__ __forceinline__ float inverse_rms(float squares, unsigned cols, float eps) {
  return rsqrtf(__fdividef(squares, float(cols)) + eps);
}

// v * scale * w, in this order: v * scale does not overflow where the weight is large.
static __device__ __forceinline__ void scale_by(float (&out)[EACH], const float (&v)[EACH], float scale,
                                                const float (&w)[EACH]) {
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) out[i] = v[i] * scale * w[i];
}
