// The choice of a token among those that filters keep: the last part of `sample`, whose header tells how it works.
// All functions are called by a whole block of SAMPLE_THREADS.
#pragma once

#include "common/gumbel.cuh"
#include "common/reduce.cuh"

constexpr float NOTHING = __builtin_bit_cast(float, 0xff800000u);
// Tokens whose scaled logit is so far below the largest lose against it, whatever the noise: it lies between -2.9 and 17.4.
constexpr float HOPELESS = 21.f;

// A token and what it is judged by; nothing is -infinity and token 0.
struct Best {
  float value;
  unsigned token;
};

// The better of two: the larger, the lower token among equals. NaN is in neither.
static __device__ __forceinline__ Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.token < a.token) ? b : a;
}

static __device__ __forceinline__ Best warp_best(Best best) {
#pragma unroll
  for (unsigned reach = WARP / 2; reach > 0; reach /= 2) {
    best = better(best, Best{__shfl_xor_sync(ALL_LANES, best.value, reach), __shfl_xor_sync(ALL_LANES, best.token, reach)});
  }
  return best;
}

// The best of a block, in every thread. `partial`, one a warp, must not be in use.
static __device__ __forceinline__ Best block_best(Best best, Best* partial) {
  best = warp_best(best);
  if (lane_id() == 0) partial[warp_id()] = best;
  __syncthreads();
  return warp_best(lane_id() < SAMPLE_THREADS / WARP ? partial[lane_id()] : Best{NOTHING, 0});
}

// A place in the falling order of tokens: key of the logit, complement of the token. Larger ones come first.
struct Place {
  unsigned key;
  unsigned inverse;
};

static __device__ __forceinline__ unsigned key_of(float value) {
  const unsigned bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ bool not_after(Place a, Place last) {
  return a.key > last.key || (a.key == last.key && a.inverse >= last.inverse);
}

// exp(x) for x <= 0 in units of 2^-44.
static __device__ __forceinline__ unsigned long long mass_of(float x) {
  return __float2ull_rz(fminf(expf(x), 1.f) * 0x1p44f);
}

// What a block has in shared memory while it chooses.
struct Choice {
  float values[SAMPLE_CANDIDATES];
  unsigned tokens[SAMPLE_CANDIDATES];
  unsigned counts[256], low[256], high[256];  // of a digit; masses in two words
  Place prefix;
  unsigned long long want;
  unsigned count, len;
  Best partial[2][WARP];
  unsigned long long masses[WARP];
};

// What is looked at: the first `len` of the candidates, or all tokens of a row.
struct Domain {
  const float* row;  // 0: candidates
  unsigned len;
};

// What it takes to find the last that is kept.
struct Want {
  bool by_mass;
  unsigned long long amount;  // tokens, or mass; 0: `share` of all mass
  float share, top, temperature;
};

static __device__ __forceinline__ unsigned long long share_of(unsigned long long total, float share) {
  const unsigned long long part = __umul64hi(total, __float2ull_rz(share * 0x1p32f) << 32);
  return part ? part : 1;
}

static __device__ __forceinline__ void count(Choice& choice, unsigned bin, unsigned n, unsigned long long mass) {
  if (n == 0) return;
  atomicAdd(&choice.counts[bin], n);
  if (mass == 0) return;
  const unsigned low = unsigned(mass), before = atomicAdd(&choice.low[bin], low);
  const unsigned carry = before + low < before ? 1u : 0u;
  atomicAdd(&choice.high[bin], unsigned(mass >> 32) + carry);
}

// One warp: the bin in which the wanted place is. Its digit goes to the prefix, what comes before it from what is wanted.
static __device__ __forceinline__ void find(Choice& choice, const Want& want, unsigned digit) {
  // Lanes hold 8 bins each, the highest first.
  unsigned long long own[8], sum = 0;
  unsigned counts[8];
#pragma unroll
  for (unsigned i = 0; i < 8; i++) {
    const unsigned bin = 255 - (lane_id() * 8 + i);
    counts[i] = choice.counts[bin];
    own[i] = want.by_mass ? choice.low[bin] + (static_cast<unsigned long long>(choice.high[bin]) << 32) : counts[i];
    sum += own[i];
    choice.counts[bin] = choice.low[bin] = choice.high[bin] = 0;
  }
  unsigned long long through = sum;
#pragma unroll
  for (unsigned reach = 1; reach < WARP; reach *= 2) {
    const unsigned long long other = __shfl_up_sync(ALL_LANES, through, reach);
    if (lane_id() >= reach) through += other;
  }
  unsigned long long amount = choice.want;
  if (amount == 0) amount = share_of(__shfl_sync(ALL_LANES, through, WARP - 1), want.share);
  __syncwarp();
  if (lane_id() == 0) choice.count = 0;
  __syncwarp();
  unsigned long long before = through - sum;
#pragma unroll
  for (unsigned i = 0; i < 8; i++) {
    if (before < amount && before + own[i] >= amount && counts[i] > 0) {
      const unsigned bin = (255 - (lane_id() * 8 + i)) << (24 - 8 * (digit % 4));
      choice.want = amount - before;
      choice.count = counts[i];
      if (digit < 4) {
        choice.prefix.key |= bin;
      } else {
        choice.prefix.inverse |= bin;
      }
    }
    before += own[i];
  }
}

// The last place that is kept of those not after `start`, or `start` if there is less than wanted. Digits of 8 bits at a
// time, of the logit first and then of the token, so that ties need nothing more.
static __device__ Place cut(Choice& choice, Domain domain, Place start, Want want) {
  for (unsigned i = threadIdx.x; i < 256; i += SAMPLE_THREADS) choice.counts[i] = choice.low[i] = choice.high[i] = 0;
  if (threadIdx.x == 0) choice.prefix = Place{0, 0}, choice.want = want.amount;
  __syncthreads();
#pragma unroll 1
  for (unsigned digit = 0; digit < 8; digit++) {
    const unsigned shift = 24 - 8 * (digit % 4), above = digit % 4 ? ~0u << (shift + 8) : 0u;
    const Place prefix = choice.prefix, mask = digit < 4 ? Place{above, 0} : Place{~0u, above};
    // Neighbours are often in the same bin: they are counted together.
    unsigned held = 0, n = 0;
    unsigned long long mass = 0;
    for (unsigned i = threadIdx.x; i < domain.len; i += SAMPLE_THREADS) {
      const float value = domain.row ? __ldcg(domain.row + i) : choice.values[i];
      const Place place = {key_of(value), ~(domain.row ? i : choice.tokens[i])};
      const bool inside = value > NOTHING && not_after(place, start) && (place.key & mask.key) == prefix.key &&
                          (place.inverse & mask.inverse) == prefix.inverse;
      if (!inside) continue;
      const unsigned bin = ((digit < 4 ? place.key : place.inverse) >> shift) & 255u;
      if (bin != held) {
        count(choice, held, n, mass);
        held = bin, n = 0, mass = 0;
      }
      n++;
      if (want.by_mass) mass += mass_of((value - want.top) / want.temperature);
    }
    count(choice, held, n, mass);
    __syncthreads();
    if (warp_id() == 0) find(choice, want, digit);
    __syncthreads();
    const unsigned left = choice.count;
    const unsigned long long still = choice.want;
    if (left == 0) return start;
    if (left == 1 || (!want.by_mass && left == still)) break;
  }
  const Place last = choice.prefix;
  __syncthreads();
  // A bin with one place in it is not looked into: its lower digits may be before those of `start`.
  return not_after(last, start) ? last : start;
}
