/** From values to places, and round values for an axis. */

/** Return a function that maps the span `[low, high]` to `[from, to]`. */
export function linear([low, high], [from, to]) {
  const slope = high === low ? 0 : (to - from) / (high - low);
  return (value) => from + (value - low) * slope;
}

/** Return about `wanted` round values between two others. */
export function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step);
  const number = Math.floor(high / step) - first + 1;
  return Array.from({ length: Math.max(0, number) }, (_, place) => (first + place) * step);
}

/** Return how many decimals tell round values apart. */
export function decimalsOf(values) {
  const step = values.length > 1 ? Math.abs(values[1] - values[0]) : Math.abs(values[0]);
  return Math.max(0, Math.min(10, Math.ceil(-Math.log10(step || 1) - 1e-9) + Number(/^[^1-9]*25/.test(String(step)))));
}

/** Return the smallest and the largest of some values, with a share of room around. */
export function extent(values, room = 0.05) {
  const finite = values.filter(Number.isFinite);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const margin = (high - low || Math.abs(high) || 1) * room;
  return [low - margin, high + margin];
}
