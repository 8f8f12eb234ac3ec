// Activation functions. Their bounds are absolute, in units of the operands, so the device's own approximations do.
#pragma once

// gelu by its tanh approximation, within 2^-21 |x|.
static __device__ __forceinline__ float gelu_tanh(float x) {
  // x (1 + tanh(u)) / 2 would cancel for negative u; x / (1 + e^-2u) is the same. Below e^80, __fdividef is what it says.
  const float u = 0.7978845608f * x * fmaf(0.044715f * x, x, 1.f);
  return __fdividef(x, 1.f + __expf(-2.f * fminf(fmaxf(u, -40.f), 40.f)));
}

// x / (1 + e^-x), within 2^-21 |x|. Above e^80, __fdividef would be 0 too early; what is left there is below 2^-109.
static __device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.f + __expf(fminf(-x, 80.f))); }

// cap tanh(x / cap), within 5 units in the last place.
static __device__ __forceinline__ float softcap_of(float x, float cap) { return cap * tanhf(__fdividef(x, cap)); }
