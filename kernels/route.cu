// route: the top_k experts of a row and their shares, from proj . (x / rms(x) * scale / sqrt(cols))
//
// Spec    core/src/ops/route.rs
// Launch  route (decode class): x: experts; y: ROUTE_ROWS rows each
//         route__tile (prefill class): x: ROUTE_TILE_EXPERTS experts each; y: ROUTE_TILE_ROWS rows each
//         The last block of a group of rows chooses, a warp for each row. A unit for each type of the matrix.
// Differs from the spec in f32 arithmetic, in the order of the sums, and in dividing the sum of products by the root mean
// square instead of each factor, so that one pass over the row gives both sums. The sums of a row are in one order for
// every number of rows: columns of a thread, lanes, warps (route); columns in blocks of 32 (route__tile).

#include "common/chain.cuh"
#include "common/reduce.cuh"
#include "common/weight_at.cuh"

constexpr unsigned ROUTE_WARPS = ROUTE_THREADS / WARP;
static_assert(ROUTE_ROWS == ROUTE_WARPS, "a warp for each row of a block");

// Columns c to c + 3 of a row in memory, zeros past its end.
static __device__ __forceinline__ float4 four(const float* __restrict__ row, unsigned c, unsigned cols) {
  if (cols % 4 == 0) return c < cols ? *reinterpret_cast<const float4*>(row + c) : make_float4(0.f, 0.f, 0.f, 0.f);
  return make_float4(c < cols ? row[c] : 0.f, c + 1 < cols ? row[c + 1] : 0.f, c + 2 < cols ? row[c + 2] : 0.f,
                     c + 3 < cols ? row[c + 3] : 0.f);
}

// The same of the matrix, which is `[experts, cols]`.
static __device__ __forceinline__ float4 four_weights(const WeightView& proj, unsigned expert, unsigned c) {
  if constexpr (type::WEIGHT::BITS == 32) {
    return four(reinterpret_cast<const float*>(proj.extra) + size_t(expert) * proj.cols, c, proj.cols);
  } else {
    float v[4];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) v[i] = c + i < proj.cols ? weight_at(proj, expert, c + i) : 0.f;
    return make_float4(v[0], v[1], v[2], v[3]);
  }
}

static __device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

static __device__ __forceinline__ float4 times(float4 a, float4 b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

static __device__ __forceinline__ float logit_of(float product, float squares, const CudaRouteParams& params) {
  return product * (rsqrtf(__fdividef(squares, float(params.cols)) + params.eps) * params.factor);
}

// Larger for larger values, and total: NaN has a place too. Zeros are equal. 0 is none.
static __device__ __forceinline__ unsigned key_of(float value) {
  const unsigned bits = __float_as_uint(value == 0.f ? 0.f : value);
  return max(bits & 0x80000000u ? ~bits : bits | 0x80000000u, 1u);
}

static __device__ __forceinline__ float value_of(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// One warp: the choice of a row from its logits. A lane has every 32nd expert, `EACH` of them.
template <unsigned EACH>
static __device__ __forceinline__ void choose(const float* logits, const float* __restrict__ expert_scale,
                                              unsigned* __restrict__ chosen, float* __restrict__ shares,
                                              const CudaRouteParams& params) {
  unsigned keys[EACH];
  float factors[EACH];
  unsigned largest = 0;
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) {
    const unsigned expert = i * WARP + lane_id();
    keys[i] = expert < params.experts ? key_of(__ldcg(logits + expert)) : 0u;
    factors[i] = expert < params.experts ? expert_scale[expert] : 0.f;
    largest = max(largest, keys[i]);
  }
  const float top = value_of(__reduce_max_sync(ALL_LANES, largest));
  float total = 0.f;
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) total += keys[i] ? expf(value_of(keys[i]) - top) : 0.f;
  total = warp_sum(total);

  float kept = 0.f, own = 0.f;
  unsigned own_expert = 0;
  for (unsigned rank = 0; rank < params.top_k; rank++) {
    // The lane's largest, the lower expert among equals; then the warp's.
    unsigned key = 0, expert = 0;
    float factor = 0.f;
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
      if (keys[i] > key) key = keys[i], expert = i * WARP + lane_id(), factor = factors[i];
    }
    const unsigned best = __reduce_max_sync(ALL_LANES, key);
    const unsigned winner = __reduce_min_sync(ALL_LANES, key == best ? expert : ~0u);
    factor = __shfl_sync(ALL_LANES, factor, winner % WARP);
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) if (i * WARP + lane_id() == winner) keys[i] = 0;
    const float share = expf(value_of(best) - top) / total;
    kept += share;
    if (lane_id() == rank) own = share * factor, own_expert = winner;
  }
  if (lane_id() < params.top_k) {
    chosen[lane_id()] = own_expert;
    shares[lane_id()] = own / fmaxf(kept, 6.1035e-5f);
  }
}

// The last block of these rows: their choices, a warp for each row.
static __device__ __forceinline__ void choose_rows(unsigned first, unsigned rows, const float* logits,
                                                   const float* __restrict__ expert_scale, unsigned* __restrict__ chosen,
                                                   float* __restrict__ shares, const CudaRouteParams& params) {
  for (unsigned row = first + warp_id(); row < rows; row += ROUTE_WARPS) {
    const float* own = logits + size_t(row) * params.experts;
    unsigned* experts = chosen + size_t(row) * params.top_k;
    float* weights = shares + size_t(row) * params.top_k;
    if (params.experts <= 4 * WARP) {
      choose<4>(own, expert_scale, experts, weights, params);
    } else {
      choose<ROUTE_EXPERTS / WARP>(own, expert_scale, experts, weights, params);
    }
  }
}

extern "C" __global__ void __launch_bounds__(ROUTE_THREADS, 1)
route(const float* __restrict__ x,             // [rows, cols]
      const float* __restrict__ scale,         // [cols]
      const WeightView proj,                   // [experts, cols]
      const float* __restrict__ expert_scale,  // [experts]
      float* logits,                           // [rows, experts]
      unsigned* __restrict__ arrived,          // [groups of rows], zero before and after
      unsigned* __restrict__ chosen,           // [rows, top_k]
      float* __restrict__ shares,              // [rows, top_k]
      CudaRouteParams params,
      const StepState* __restrict__ step) {
  // Quads of a thread that are in flight at once.
  constexpr unsigned QUADS = 3;
  __shared__ float2 partial[ROUTE_ROWS][ROUTE_WARPS];
  const unsigned first = blockIdx.y * ROUTE_ROWS, expert = blockIdx.x, cols = params.cols;
  const unsigned all = params.picked ? step->picked : step->rows;
  float squares[ROUTE_ROWS] = {}, products[ROUTE_ROWS] = {};
  float4 factors[QUADS];
  const auto load_factors = [&](unsigned start) {
#pragma unroll
    for (unsigned q = 0; q < QUADS; q++) {
      const unsigned c = start + 4 * q * ROUTE_THREADS;
      factors[q] = times(four_weights(proj, expert, c), four(scale, c, cols));
    }
  };
  // Weights are there before the kernel in front is done.
  load_factors(4 * threadIdx.x);
  follow();
  for (unsigned start = 4 * threadIdx.x; start < cols; start += 4 * QUADS * ROUTE_THREADS) {
    if (start >= 4 * ROUTE_THREADS) load_factors(start);
#pragma unroll
    for (unsigned r = 0; r < ROUTE_ROWS; r++) {
      // The first row is read in any case: it does not wait for the number of rows.
      if (r > 0 && first + r >= all) break;
      const float* row = x + size_t(first + r) * cols;
      float4 v[QUADS];
#pragma unroll
      for (unsigned q = 0; q < QUADS; q++) v[q] = four(row, start + 4 * q * ROUTE_THREADS, cols);
#pragma unroll
      for (unsigned q = 0; q < QUADS; q++) {
        squares[r] = dot(v[q], v[q], squares[r]);
        products[r] = dot(v[q], factors[q], products[r]);
      }
    }
  }
  if (first >= all) return;
#pragma unroll
  for (unsigned r = 0; r < ROUTE_ROWS; r++) {
    if (first + r >= all) break;
    const float2 sums = make_float2(warp_sum(squares[r]), warp_sum(products[r]));
    if (lane_id() == 0) partial[r][warp_id()] = sums;
  }
  __syncthreads();
  const unsigned row = first + threadIdx.x / ROUTE_WARPS;
  if (threadIdx.x < ROUTE_ROWS * ROUTE_WARPS) {
    float2 sums = row < all ? partial[threadIdx.x / ROUTE_WARPS][threadIdx.x % ROUTE_WARPS] : make_float2(0.f, 0.f);
    sums = make_float2(warp_sum<ROUTE_WARPS>(sums.x), warp_sum<ROUTE_WARPS>(sums.y));
    if (threadIdx.x % ROUTE_WARPS == 0 && row < all) {
      logits[size_t(row) * params.experts + expert] = logit_of(sums.y, sums.x, params);
    }
  }
  if (!last_block(arrived + blockIdx.y, gridDim.x)) return;
  choose_rows(first, min(first + ROUTE_ROWS, all), logits, expert_scale, chosen, shares, params);
}

extern "C" __global__ void __launch_bounds__(ROUTE_THREADS, 1)
route__tile(const float* __restrict__ x,             // [rows, cols]
            const float* __restrict__ scale,         // [cols]
            const WeightView proj,                   // [experts, cols]
            const float* __restrict__ expert_scale,  // [experts]
            float* logits,                           // [rows, experts]
            unsigned* __restrict__ arrived,          // [groups of rows], zero before and after
            unsigned* __restrict__ chosen,           // [rows, top_k]
            float* __restrict__ shares,              // [rows, top_k]
            CudaRouteParams params,
            const StepState* __restrict__ step) {
  follow();
  // A warp has 4 rows and a lane 4 experts. In shared memory the quads of experts of column c trade places by c / 4, so
  // that lanes neither read nor write the same banks.
  constexpr unsigned DEPTH = 32, WEIGHTS = ROUTE_TILE_EXPERTS * DEPTH / 4 / ROUTE_THREADS;
  static_assert(ROUTE_TILE_ROWS == 4 * ROUTE_WARPS && ROUTE_TILE_EXPERTS == 4 * WARP, "4 by 4 results a thread");
  static_assert(ROUTE_TILE_ROWS * DEPTH == 4 * ROUTE_THREADS, "each thread loads 4 values of the rows");
  __shared__ float4 weights[DEPTH][ROUTE_TILE_EXPERTS / 4];
  __shared__ float4 values[ROUTE_TILE_ROWS][DEPTH / 4];
  __shared__ float sums[ROUTE_TILE_ROWS];
  const unsigned first = blockIdx.y * ROUTE_TILE_ROWS, first_expert = blockIdx.x * ROUTE_TILE_EXPERTS;
  const unsigned cols = params.cols, all = params.picked ? step->picked : step->rows;
  if (first >= all) return;
  // What this thread loads: one quad of a row, and quads at the same columns of some experts.
  const unsigned quad = threadIdx.x % (DEPTH / 4), line = threadIdx.x / (DEPTH / 4);
  const float* row = x + size_t(min(first + line, all - 1)) * cols;
  const auto load = [&](unsigned c, float4& v, float4& s, float4 (&w)[WEIGHTS]) {
    v = four(row, c, cols), s = four(scale, c, cols);
#pragma unroll
    for (unsigned i = 0; i < WEIGHTS; i++) {
      w[i] = four_weights(proj, min(first_expert + i * (ROUTE_TILE_EXPERTS / WEIGHTS) + line, params.experts - 1), c);
    }
  };
  float4 v, s, w[WEIGHTS];
  float squares = 0.f, out[4][4] = {};
  load(4 * quad, v, s, w);
  for (unsigned start = 0; start < cols; start += DEPTH) {
    __syncthreads();
    squares = dot(v, v, squares);
    values[line][quad] = times(v, s);
#pragma unroll
    for (unsigned i = 0; i < WEIGHTS; i++) {
      const unsigned expert = i * (ROUTE_TILE_EXPERTS / WEIGHTS) + line;
      float* to = reinterpret_cast<float*>(weights) + ((expert / 4) ^ quad) * 4 + expert % 4;
      to[(4 * quad + 0) * ROUTE_TILE_EXPERTS] = w[i].x, to[(4 * quad + 1) * ROUTE_TILE_EXPERTS] = w[i].y;
      to[(4 * quad + 2) * ROUTE_TILE_EXPERTS] = w[i].z, to[(4 * quad + 3) * ROUTE_TILE_EXPERTS] = w[i].w;
    }
    __syncthreads();
    if (start + DEPTH < cols) load(start + DEPTH + 4 * quad, v, s, w);
    float part[4][4] = {};
#pragma unroll
    for (unsigned q = 0; q < DEPTH / 4; q++) {
      float a[4][4];
#pragma unroll
      for (unsigned r = 0; r < 4; r++) {
        const float4 four = values[4 * warp_id() + r][q];
        a[r][0] = four.x, a[r][1] = four.y, a[r][2] = four.z, a[r][3] = four.w;
      }
#pragma unroll
      for (unsigned i = 0; i < 4; i++) {
        const float4 b = weights[4 * q + i][lane_id() ^ q];
#pragma unroll
        for (unsigned r = 0; r < 4; r++) {
          part[r][0] = fmaf(a[r][i], b.x, part[r][0]), part[r][1] = fmaf(a[r][i], b.y, part[r][1]);
          part[r][2] = fmaf(a[r][i], b.z, part[r][2]), part[r][3] = fmaf(a[r][i], b.w, part[r][3]);
        }
      }
    }
#pragma unroll
    for (unsigned r = 0; r < 4; r++) {
#pragma unroll
      for (unsigned i = 0; i < 4; i++) out[r][i] += part[r][i];
    }
  }
  squares = warp_sum<DEPTH / 4>(squares);
  if (quad == 0) sums[line] = squares;
  __syncthreads();
#pragma unroll
  for (unsigned r = 0; r < 4; r++) {
    const unsigned at = first + 4 * warp_id() + r;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
      const unsigned expert = first_expert + 4 * lane_id() + i;
      if (at < all && expert < params.experts) {
        logits[size_t(at) * params.experts + expert] = logit_of(out[r][i], sums[4 * warp_id() + r], params);
      }
    }
  }
  if (!last_block(arrived + blockIdx.y, gridDim.x)) return;
  choose_rows(first, min(first + ROUTE_TILE_ROWS, all), logits, expert_scale, chosen, shares, params);
}
