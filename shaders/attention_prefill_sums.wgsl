// attention, prefill class: sums of weighted values. Comes before attention_prefill.wgsl.
//
// A value that is no finite number makes the sums of a row that sees it no finite numbers. Rows that share its tile and do
// not see it give it a weight of 0, and 0 times infinity is none either. So where sums are not finite the workgroup goes
// through its keys a second time, and adds nothing where a weight is 0: that changes no other bit.

// Columns 8 * lane .. + 3 and + 4 .. + 7 of eight queries.
struct Sums {
  a0: vec4<f32>, b0: vec4<f32>, a1: vec4<f32>, b1: vec4<f32>, a2: vec4<f32>, b2: vec4<f32>, a3: vec4<f32>, b3: vec4<f32>,
  a4: vec4<f32>, b4: vec4<f32>, a5: vec4<f32>, b5: vec4<f32>, a6: vec4<f32>, b6: vec4<f32>, a7: vec4<f32>, b7: vec4<f32>,
}

fn fma4(p: f32, v: vec4<f32>, sum: vec4<f32>) -> vec4<f32> { return fma(vec4<f32>(p), v, sum); }

fn weigh(lo: vec4<f32>, hi: vec4<f32>, v: Eight, s: Sums) -> Sums {
  return Sums(
    fma4(lo.x, v.a, s.a0), fma4(lo.x, v.b, s.b0), fma4(lo.y, v.a, s.a1), fma4(lo.y, v.b, s.b1),
    fma4(lo.z, v.a, s.a2), fma4(lo.z, v.b, s.b2), fma4(lo.w, v.a, s.a3), fma4(lo.w, v.b, s.b3),
    fma4(hi.x, v.a, s.a4), fma4(hi.x, v.b, s.b4), fma4(hi.y, v.a, s.a5), fma4(hi.y, v.b, s.b5),
    fma4(hi.z, v.a, s.a6), fma4(hi.z, v.b, s.b6), fma4(hi.w, v.a, s.a7), fma4(hi.w, v.b, s.b7));
}

// The same, but for weights of 0.
fn seen4(p: f32, v: vec4<f32>, sum: vec4<f32>) -> vec4<f32> { return select(sum, fma4(p, v, sum), p != 0.0); }

fn weigh_seen(lo: vec4<f32>, hi: vec4<f32>, v: Eight, s: Sums) -> Sums {
  return Sums(
    seen4(lo.x, v.a, s.a0), seen4(lo.x, v.b, s.b0), seen4(lo.y, v.a, s.a1), seen4(lo.y, v.b, s.b1),
    seen4(lo.z, v.a, s.a2), seen4(lo.z, v.b, s.b2), seen4(lo.w, v.a, s.a3), seen4(lo.w, v.b, s.b3),
    seen4(hi.x, v.a, s.a4), seen4(hi.x, v.b, s.b4), seen4(hi.y, v.a, s.a5), seen4(hi.y, v.b, s.b5),
    seen4(hi.z, v.a, s.a6), seen4(hi.z, v.b, s.b6), seen4(hi.w, v.a, s.a7), seen4(hi.w, v.b, s.b7));
}

fn scaled(s: Sums, lo: vec4<f32>, hi: vec4<f32>) -> Sums {
  return Sums(
    s.a0 * lo.x, s.b0 * lo.x, s.a1 * lo.y, s.b1 * lo.y, s.a2 * lo.z, s.b2 * lo.z, s.a3 * lo.w, s.b3 * lo.w,
    s.a4 * hi.x, s.b4 * hi.x, s.a5 * hi.y, s.b5 * hi.y, s.a6 * hi.z, s.b6 * hi.z, s.a7 * hi.w, s.b7 * hi.w);
}

// The bits of the exponent, all of them set for what is not finite. A comparison of floats could be taken for true.
fn exponents(v: vec4<f32>) -> vec4<u32> { return bitcast<vec4<u32>>(v) & vec4<u32>(0x7f800000u); }

fn largest_exponent(s: Sums) -> u32 {
  let a = max(max(exponents(s.a0), exponents(s.b0)), max(exponents(s.a1), exponents(s.b1)));
  let b = max(max(exponents(s.a2), exponents(s.b2)), max(exponents(s.a3), exponents(s.b3)));
  let c = max(max(exponents(s.a4), exponents(s.b4)), max(exponents(s.a5), exponents(s.b5)));
  let d = max(max(exponents(s.a6), exponents(s.b6)), max(exponents(s.a7), exponents(s.b7)));
  let all = max(max(a, b), max(c, d));
  return max(max(all.x, all.y), max(all.z, all.w));
}

var<workgroup> broken: atomic<u32>;

// Whether sums of the workgroup are not finite. Has barriers.
fn any_broken(s: Sums, index: u32) -> bool {
  if index == 0u { atomicStore(&broken, 0u); }
  workgroupBarrier();
  if largest_exponent(s) == 0x7f800000u { atomicStore(&broken, 1u); }
  workgroupBarrier();
  return atomicLoad(&broken) != 0u;
}
