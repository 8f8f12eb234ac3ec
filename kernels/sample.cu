// sample: out[r] = a token of row r: its edited logits, temperature, top-k, top-p, min-p, Gumbel noise, the largest
//
// Spec    core/src/ops/sample.rs, core/src/sample.rs; core/src/ops/softcap.rs, which is done on the way where `cap` is set
// Launch  x: slices of SAMPLE_SLICE tokens, 4 a thread; y: picked rows
//
// 1. A slice's best is that of its edited logits; where no token is dropped, noise is already added to them. The last
//    block of a row takes the best of the slices: without top-k, top-p and min-p, and if the temperature is not very low,
//    it is the answer.
// 2. Else candidates are gathered: tokens above a bound under which none can be kept and win. The k-th largest of the
//    bests of segments (the tokens of a warp) is such a bound for top-k, min-p is one itself, and for top-p the mass of the
//    segments says whether a guess is one. All tokens are candidates if there would be too many.
// 3. The last of the top-k and then of the top-p is found digit by digit: histograms of counts and of probability over
//    8 bits at a time, of the logit first and then of the token, so ties need nothing more.
//
// Differs from the spec in f32 arithmetic. Greedy choices and top-k do not: nothing is rounded but edits. Probabilities
// are summed as integers in units of 2^-44 and so exactly; each errs by its exp, 2^-22 * (2 + |x|) at x below the
// largest, so top-p may differ where the sum before a token is within 2^-17 of its limit, and min-p where a logit is
// within 2^-22 * |x| of its. Noisy logits err by 2^-22 * (|x| + 16), with x counted from 0 if no token is dropped: two that
// are closer may swap. Edits name a token once, as `Sampling::edits` makes them.

#include "gen/abi.cuh"
#include "common/activation.cuh"
#include "common/chain.cuh"
#include "common/choose.cuh"

// The tokens of a warp: the best of them, and the mass of all relative to it where top-p alone needs it.
struct Segment {
  float value;
  float mass;
};

static_assert(SAMPLE_SEGMENT == 4 * WARP && SAMPLE_SLICE == 4 * SAMPLE_THREADS, "a thread has 4 tokens");
static_assert(SAMPLE_SLICE <= SAMPLE_CANDIDATES, "a slice is edited where candidates will be");

static __device__ __forceinline__ DrawInfo draw_of(const unsigned* __restrict__ draws, unsigned row) {
  DrawInfo draw = reinterpret_cast<const DrawInfo*>(draws)[row];
  // Positive temperatures are kept from where a quotient by them is not a number.
  draw.temperature = draw.temperature > 0.f ? fmaxf(draw.temperature, 1e-30f) : 0.f;
  return draw;
}

// Whether tokens are dropped from a random choice, or quotients may be so large that they need the largest logit first.
static __device__ __forceinline__ bool filters(const DrawInfo& draw) {
  return draw.temperature > 0.f && (draw.top_k > 0 || draw.top_p < 1.f || draw.min_p > 0.f || draw.temperature < 0.05f);
}

static __device__ __forceinline__ bool changes(const DrawInfo& draw) { return draw.edits > 0 || draw.allowed > 0; }

// Whether a mask allows anything; one that does not is ignored.
static __device__ __forceinline__ bool opens(const DrawInfo& draw, const unsigned* __restrict__ draws, unsigned vocab) {
  unsigned bits = 0;
  for (unsigned i = threadIdx.x; i < min(draw.allowed, (vocab + 31) / 32); i += SAMPLE_THREADS) {
    const unsigned left = vocab - i * 32;
    bits |= draws[draw.allowed_start + i] & (left < 32 ? (1u << left) - 1 : ~0u);
  }
  return __syncthreads_or(bits != 0);
}

// Edits and mask of the 4 logits of this thread, from token `first`. `slice` is shared memory for all of them.
static __device__ __forceinline__ void change(float (&v)[4], float* slice, const DrawInfo& draw,
                                              const unsigned* __restrict__ draws, unsigned first, unsigned vocab) {
  const unsigned own = 4 * threadIdx.x, start = first - own;
#pragma unroll
  for (unsigned i = 0; i < 4; i++) slice[own + i] = v[i];
  __syncthreads();
  for (unsigned i = threadIdx.x; i < draw.edits; i += SAMPLE_THREADS) {
    const unsigned* edit = draws + draw.edits_start + 3 * i;
    const unsigned at = edit[0] - start;
    if (edit[0] < start || at >= SAMPLE_SLICE) continue;
    const float logit = slice[at], repetition = __uint_as_float(edit[1]);
    slice[at] = (logit > 0.f ? logit / repetition : logit * repetition) + __uint_as_float(edit[2]);
  }
  const bool masked = opens(draw, draws, vocab);
  // Beyond the mask nothing is allowed.
  const unsigned word = masked && first / 32 < draw.allowed && first < vocab ? draws[draw.allowed_start + first / 32] : 0;
#pragma unroll
  for (unsigned i = 0; i < 4; i++) v[i] = masked && !(word >> (first % 32 + i) & 1) ? NOTHING : slice[own + i];
}

// The best of a slice, in every thread. Its logits are capped where they are, its segments written.
static __device__ __forceinline__ Best best_of_slice(float* logits, const unsigned* __restrict__ draws, float* edited,
                                                     Segment* segments, const DrawInfo& draw, Choice& choice,
                                                     const CudaSampleParams& params) {
  const unsigned first = blockIdx.x * SAMPLE_SLICE + 4 * threadIdx.x, vocab = params.vocab;
  const bool whole = vocab % 4 == 0 && first < vocab;
  logits += size_t(blockIdx.y) * vocab + first;
  float v[4] = {NOTHING, NOTHING, NOTHING, NOTHING};
  if (whole) {
    const float4 quad = *reinterpret_cast<const float4*>(logits);
    v[0] = quad.x, v[1] = quad.y, v[2] = quad.z, v[3] = quad.w;
  } else {
    for (unsigned i = 0; i < 4; i++) if (first + i < vocab) v[i] = logits[i];
  }
  if (params.cap > 0.f) {
#pragma unroll
    for (unsigned i = 0; i < 4; i++) v[i] = softcap_of(v[i], params.cap);
    if (whole) {
      *reinterpret_cast<float4*>(logits) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
      for (unsigned i = 0; i < 4; i++) if (first + i < vocab) logits[i] = v[i];
    }
  }
  if (changes(draw)) {
    change(v, choice.values, draw, draws, first, vocab);
    float* to = edited + size_t(blockIdx.y) * vocab + first;
    for (unsigned i = 0; i < 4; i++) if (first + i < vocab) to[i] = v[i];
  }
  const bool filtered = filters(draw);
  const bool noisy = draw.temperature > 0.f && !filtered;
  Best best = {NOTHING, 0};
  if (noisy) {
    const uint4 words = words_of(draw, first / 4);
    const unsigned word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (unsigned i = 0; i < 4; i++) if (first + i < vocab && v[i] > NOTHING) v[i] = v[i] / draw.temperature + gumbel(word[i]);
  }
#pragma unroll
  for (unsigned i = 0; i < 4; i++) if (first + i < vocab && v[i] > best.value) best = Best{v[i], first + i};
  best = warp_best(best);
  if (filtered) {
    float mass = 0.f;
    if (draw.top_k == 0 && draw.top_p < 1.f) {
#pragma unroll
      for (unsigned i = 0; i < 4; i++) mass += v[i] > NOTHING ? expf((v[i] - best.value) / draw.temperature) : 0.f;
      mass = warp_sum(mass);
    }
    const unsigned segment = first / SAMPLE_SEGMENT;
    if (lane_id() == 0 && segment < params.segments) {
      segments[size_t(blockIdx.y) * params.segments + segment] = Segment{best.value, mass};
    }
  }
  return block_best(best, choice.partial[0]);
}

// Gathers the tokens whose logit is at least `bound`: returns how many there are, and in `mass` what they weigh.
static __device__ unsigned gather(Choice& choice, const float* row, const Segment* segments, float bound, float top,
                                  const DrawInfo& draw, const CudaSampleParams& params, unsigned long long& mass) {
  __syncthreads();
  if (threadIdx.x == 0) choice.len = 0;
  __syncthreads();
  unsigned long long own = 0;
  const unsigned vocab = params.vocab;
  for (unsigned start = warp_id() * WARP; start < params.segments; start += SAMPLE_THREADS) {
    const unsigned segment = start + lane_id();
    unsigned wanted = __ballot_sync(ALL_LANES, segment < params.segments && __ldcg(&segments[segment].value) >= bound);
    for (; wanted; wanted &= wanted - 1) {
      const unsigned first = (start + __ffs(wanted) - 1) * SAMPLE_SEGMENT;
      float v[4];
#pragma unroll
      for (unsigned i = 0; i < 4; i++) {
        const unsigned token = first + i * WARP + lane_id();
        v[i] = token < vocab ? __ldcg(row + token) : NOTHING;
      }
#pragma unroll
      for (unsigned i = 0; i < 4; i++) {
        const bool inside = v[i] > NOTHING && v[i] >= bound;
        const unsigned lanes = __ballot_sync(ALL_LANES, inside);
        unsigned at = 0;
        if (lane_id() == 0) at = atomicAdd(&choice.len, __popc(lanes));
        at = __shfl_sync(ALL_LANES, at, 0) + __popc(lanes & ((1u << lane_id()) - 1));
        if (inside && at < SAMPLE_CANDIDATES) choice.values[at] = v[i], choice.tokens[at] = first + i * WARP + lane_id();
        if (inside && draw.top_p < 1.f) own += mass_of((v[i] - top) / draw.temperature);
      }
    }
  }
#pragma unroll
  for (unsigned reach = WARP / 2; reach > 0; reach /= 2) own += __shfl_xor_sync(ALL_LANES, own, reach);
  if (lane_id() == 0) choice.masses[warp_id()] = own;
  __syncthreads();
  mass = 0;
  for (unsigned warp = 0; warp < SAMPLE_THREADS / WARP; warp++) mass += choice.masses[warp];
  return choice.len;
}

// A random choice among what the filters keep. `best` is that of all logits.
static __device__ __forceinline__ Best choose(Choice& choice, const float* row, const Segment* segments, Best best,
                                           const DrawInfo& draw, const CudaSampleParams& params) {
  const float top = best.value, temperature = draw.temperature;
  const float least = draw.min_p > 0.f ? logf(draw.min_p) : NOTHING;
  // Below this a token is not kept or does not win; a little lower than it must be, for what is rounded.
  float bound = top - (temperature * fminf(HOPELESS, 0.001f - least * 1.001f) + fabsf(top) * 0x1p-22f);
  Domain domain = {row, params.vocab};
  unsigned long long mass, wanted_mass = 0;
  unsigned len = SAMPLE_CANDIDATES + 1;
  const bool by_share = draw.top_k == 0 && draw.top_p < 1.f;
  if (draw.top_k > 0) {
    // What is not among the top-k counts for top-p neither: the whole top-k is looked at.
    bound = NOTHING;
    if (draw.top_k <= params.segments && params.segments <= SAMPLE_CANDIDATES) {
      for (unsigned i = threadIdx.x; i < params.segments; i += SAMPLE_THREADS) {
        choice.values[i] = __ldcg(&segments[i].value), choice.tokens[i] = i;
      }
      const Place last = cut(choice, Domain{nullptr, params.segments}, Place{0, 0}, Want{false, draw.top_k, 0.f, top, temperature});
      const unsigned bits = last.key & 0x80000000u ? last.key & 0x7fffffffu : ~last.key;
      if (last.key > key_of(NOTHING)) bound = __uint_as_float(bits);
      len = gather(choice, row, segments, bound, top, draw, params, mass);
    }
  } else if (by_share) {
    unsigned long long total = 0;
    for (unsigned i = threadIdx.x; i < params.segments; i += SAMPLE_THREADS) {
      const float value = __ldcg(&segments[i].value), relative = __ldcg(&segments[i].mass);
      if (value > NOTHING) total += __float2ull_rz(expf((value - top) / temperature) * relative * 0x1p44f);
    }
#pragma unroll
    for (unsigned reach = WARP / 2; reach > 0; reach /= 2) total += __shfl_xor_sync(ALL_LANES, total, reach);
    if (lane_id() == 0) choice.masses[warp_id()] = total;
    __syncthreads();
    for (unsigned warp = 0; warp < SAMPLE_THREADS / WARP; warp++) wanted_mass += choice.masses[warp];
    wanted_mass = share_of(wanted_mass, draw.top_p);
    // Most often the nucleus lies higher still.
    len = gather(choice, row, segments, fmaxf(bound, top - 8.f * temperature), top, draw, params, mass);
    if (mass < wanted_mass && len <= SAMPLE_CANDIDATES) len = gather(choice, row, segments, bound, top, draw, params, mass);
  } else {
    len = gather(choice, row, segments, bound, top, draw, params, mass);
  }
  if (len <= SAMPLE_CANDIDATES) domain = Domain{nullptr, len};
  __syncthreads();

  Place last = {0, 0};
  if (draw.top_k > 0) last = cut(choice, domain, last, Want{false, draw.top_k, 0.f, top, temperature});
  if (draw.top_p < 1.f) last = cut(choice, domain, last, Want{true, wanted_mass, draw.top_p, top, temperature});
  Best chosen = {NOTHING, 0};
  for (unsigned i = threadIdx.x; i < domain.len; i += SAMPLE_THREADS) {
    const float value = domain.row ? __ldcg(domain.row + i) : choice.values[i];
    const unsigned token = domain.row ? i : choice.tokens[i];
    const float scaled = (value - top) / temperature;
    if (value > NOTHING && not_after(Place{key_of(value), ~token}, last) && scaled >= least && scaled >= -HOPELESS) {
      chosen = better(chosen, Best{scaled + gumbel_of(draw, token), token});
    }
  }
  return block_best(chosen, choice.partial[1]);
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS, 2)
sample(float* logits,                        // [picked, vocab], capped in place
       const unsigned* __restrict__ draws,   // [picked] of DrawInfo, edits, masks
       float* edited,                        // [picked, vocab], rows with edits or masks
       Segment* segments,                    // [picked, segments]
       Best* bests,                          // [picked, slices]
       unsigned* __restrict__ arrived,       // [picked], zero before and after
       unsigned* __restrict__ out,           // [picked]
       unsigned* __restrict__ sampled,       // [PLACES, SLOTS]
       CudaSampleParams params,
       const StepState* __restrict__ step) {
  follow();
  __shared__ Choice choice;
  const unsigned row = blockIdx.y, slices = gridDim.x;
  if (row >= step->picked) return;
  const DrawInfo draw = draw_of(draws, row);
  Best best = best_of_slice(logits, draws, edited, segments, draw, choice, params);
  if (threadIdx.x == 0) bests[size_t(row) * slices + blockIdx.x] = best;
  if (!last_block(arrived + row, slices)) return;

  best = Best{NOTHING, 0};
  for (unsigned i = threadIdx.x; i < slices; i += SAMPLE_THREADS) {
    const float2 other = __ldcg(reinterpret_cast<const float2*>(bests) + size_t(row) * slices + i);
    best = better(best, Best{other.x, __float_as_uint(other.y)});
  }
  best = block_best(best, choice.partial[1]);
  // Infinity wins as it is.
  if (filters(draw) && best.value > NOTHING && best.value < -NOTHING) {
    const float* values = (changes(draw) ? edited : logits) + size_t(row) * params.vocab;
    best = choose(choice, values, segments + size_t(row) * params.segments, best, draw, params);
  }
  if (threadIdx.x == 0) {
    out[row] = best.token;
    sampled[draw.slot] = best.token;
  }
}
