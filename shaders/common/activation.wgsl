// Activation functions by means that every driver computes well: WGSL promises little for its own tanh.

// tanh(x). Below 0.25 in magnitude by its series, because 1 - 2 / (e^2x + 1) would cancel there.
fn tanh_wide(x: f32) -> f32 {
  let s = x * x;
  let series = x * fma(s, fma(s, fma(s, fma(s, 0.021869488, -0.053968254), 0.13333334), -0.33333334), 1.0);
  let e = exp(-2.0 * min(abs(x), 20.0));
  let far = sign(x) * ((1.0 - e) / (1.0 + e));
  return select(far, series, abs(x) < 0.25);
}

// x / (1 + e^-x). A larger e^-x would overflow, and changes nothing.
fn silu(x: f32) -> f32 { return x / (1.0 + exp(min(-x, 80.0))); }

// gelu by its tanh approximation.
fn gelu_tanh(x: f32) -> f32 {
  // 1 + tanh(u) would cancel for negative u; this is 2 / (1 + e^-2u) instead.
  let u = 0.7978845608 * x * fma(0.044715 * x, x, 1.0);
  return x / (1.0 + exp(-2.0 * clamp(u, -40.0, 40.0)));
}
