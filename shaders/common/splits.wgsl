// Splits of the keys of a row, and how what they leave is added up.

const LOWEST: f32 = -3.0e38;

// First and last position that a row sees.
fn first_seen(info: RowInfo) -> u32 {
  return select(0u, info.position + 1u - params.window, info.position + 1u > params.window);
}
fn last_seen(info: RowInfo) -> u32 {
  if params.reach == 1u { return info.position - 1u; }
  if params.reach == 2u { return info.position + min(info.flags >> 8u, params.window - 1u); }
  return info.position;
}

struct Sum { top: f32, total: f32, values: vec4<f32> }

// Adds a split: its largest logit and sum of weights, and its weighted values. Nothing changes unless it is there.
fn add(sum: Sum, stat: vec2<f32>, values: vec4<f32>, is_there: bool) -> Sum {
  let top = max(sum.top, stat.x);
  let kept = select(exp(sum.top - top), 1.0, sum.top == top);
  let fresh = select(exp(stat.x - top), 1.0, stat.x == top);
  if !is_there { return sum; }
  return Sum(top, fma(stat.y, fresh, sum.total * kept), fma(values, vec4<f32>(fresh), sum.values * kept));
}
