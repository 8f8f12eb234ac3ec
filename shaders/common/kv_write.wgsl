// Storing a head in the cache, byte for byte as core/src/kv_type.rs does. The op declares `head_values`.
//
// Values that are rounded to codes pass through workgroup memory first: so no compiler fuses the product that makes
// them with the rounding.

var<workgroup> head_codes: array<f32, HEAD_MAX>;
var<workgroup> head_scales: array<f32, 16>;

const F16_MAX: f32 = 65504.0;

// Words of a row, and where its planes start: low codes at 0, high bits, scales.
fn high_plane(dim: u32) -> u32 { return dim / 16u; }
fn scale_plane(kind: u32, dim: u32) -> u32 {
  if kind == KV_Q8_0 { return dim / 4u; }
  if kind == KV_Q4_0 { return dim / 8u; }
  return dim / 16u + dim / 32u;
}
fn code_words(kind: u32, dim: u32) -> u32 {
  if kind == KV_F32 { return dim; }
  if kind == KV_F16 { return dim / 2u; }
  if kind == KV_TQ3_0 { return dim / 16u; }
  return scale_plane(kind, dim);
}

// 1 / d, or 0 where that overflows. A device may take the border, which is no normal number, for 0.
fn inverse_step(d: f32) -> f32 {
  return select(0.0, divide(1.0, d), abs(d) >= 2.9387359e-39 && d != 0.0);
}

// Scales of q8_0 and q4_0 into head_scales, values over them into head_codes.
fn scale_blocks(kind: u32, dim: u32, lane: u32) {
  workgroupBarrier();
  if lane < dim / 32u {
    // The first of the largest magnitude, with its sign.
    var largest = 0.0;
    for (var i = 0u; i < 32u; i++) {
      let x = head_values[32u * lane + i];
      if abs(x) > abs(largest) { largest = x; }
    }
    if kind == KV_Q8_0 {
      head_scales[lane] = min(divide(abs(largest), 127.0), F16_MAX);
    } else {
      head_scales[lane] = clamp(largest * -0.125, -F16_MAX, F16_MAX);
    }
  }
  workgroupBarrier();
  for (var i = lane; i < dim; i += ROW_THREADS) {
    head_codes[i] = head_values[i] * inverse_step(head_scales[i / 32u]);
  }
  workgroupBarrier();
}

// Lengths of all groups of 128 of head_codes, squared there already: neighbours first. Left in the group's first.
fn sum_groups(dim: u32, lane: u32) {
  for (var stride = 1u; stride < 128u; stride *= 2u) {
    workgroupBarrier();
    for (var i = lane; i < dim / 2u / stride; i += ROW_THREADS) {
      head_codes[2u * stride * i] += head_codes[2u * stride * i + stride];
    }
  }
  workgroupBarrier();
}

// Index of the centroid for a rotated value of a unit vector.
fn centroid_index(u: f32) -> u32 {
  var index = 0u;
  for (var t = 0u; t < 7u; t++) { index += select(0u, 1u, u >= TQ3_THRESHOLDS[t]); }
  return index;
}

// Norms of tq3_0 into head_scales, rotated unit vectors into head_values.
fn scale_groups(dim: u32, lane: u32) {
  workgroupBarrier();
  for (var i = lane; i < dim; i += ROW_THREADS) {
    let x = clamp(head_values[i], -F16_MAX, F16_MAX);
    head_values[i] = x;
    head_codes[i] = x * x;
  }
  sum_groups(dim, lane);
  for (var i = lane; i < dim; i += ROW_THREADS) {
    let long = square_root(head_codes[i & ~127u]);
    head_values[i] = select(0.0, divide(head_values[i], long), long > 1.0e-10);
  }
  if lane < dim / 128u { head_scales[lane] = square_root(head_codes[128u * lane]); }
  rotate_groups(dim, lane, false);
  for (var i = lane; i < dim; i += ROW_THREADS) {
    let c = TQ3_CENTROIDS[centroid_index(head_values[i])];
    head_codes[i] = c * c;
  }
  sum_groups(dim, lane);
  if lane < dim / 128u {
    head_scales[lane] = min(divide(head_scales[lane], square_root(head_codes[128u * lane])), F16_MAX);
  }
  workgroupBarrier();
}

// Word `w` of the codes of a head, after its blocks or groups were scaled.
fn code_word(kind: u32, w: u32) -> u32 {
  if kind == KV_F32 { return bitcast<u32>(head_values[w]); }
  if kind == KV_F16 { return half_bits(head_values[2u * w]) | half_bits(head_values[2u * w + 1u]) << 16u; }
  var word = 0u;
  if kind == KV_Q8_0 {
    for (var i = 0u; i < 4u; i++) {
      let x = head_codes[4u * w + i];
      // Halves away from 0, and no further than 127.
      let size = i32(min((u32(abs(x) * 2.0) + 1u) >> 1u, 127u));
      word |= (bitcast<u32>(select(size, -size, x < 0.0)) & 255u) << (8u * i);
    }
  } else if kind == KV_Q4_0 {
    let low = 32u * (w / 4u) + 4u * (w % 4u);
    for (var i = 0u; i < 4u; i++) {
      let a = u32(clamp(head_codes[low + i] + 8.5, 0.0, 15.0));
      let b = u32(clamp(head_codes[low + 16u + i] + 8.5, 0.0, 15.0));
      word |= (a | b << 4u) << (8u * i);
    }
  } else {
    for (var i = 0u; i < 16u; i++) {
      word |= (centroid_index(head_values[16u * w + i]) & 3u) << (2u * i);
    }
  }
  return word;
}

// Word `w` of the high bits of tq3_0.
fn high_word(w: u32) -> u32 {
  var word = 0u;
  for (var i = 0u; i < 32u; i++) { word |= (centroid_index(head_values[32u * w + i]) >> 2u) << i; }
  return word;
}

// Word `w` of the scales.
fn scale_word(kind: u32, dim: u32, w: u32) -> u32 {
  if kind == KV_TQ3_0 {
    let norm = half_bits(head_scales[w / 2u]);
    return norm | norm << 16u;
  }
  let low = half_bits(head_scales[2u * w]);
  return low | select(0u, half_bits(head_scales[min(2u * w + 1u, 15u)]), 2u * w + 1u < dim / 32u) << 16u;
}

// Brings head_values into the form in which code_word and its like read them.
fn scale_head(kind: u32, dim: u32, lane: u32) {
  if kind == KV_Q8_0 || kind == KV_Q4_0 { scale_blocks(kind, dim, lane); }
  if kind == KV_TQ3_0 { scale_groups(dim, lane); }
  workgroupBarrier();
}
