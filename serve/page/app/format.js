/** Numbers, instants and names as people read them. Absent values are a dash. */

const NOTHING = 1e-6;
const DASH = "–";
const UNITS = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** Return a fraction as percent; `sign` writes a plus before gains. */
export function percent(value, digits = 1, sign = false) {
  if (!isNumber(value)) return DASH;
  return new Intl.NumberFormat("en", {
    style: "percent",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    signDisplay: sign ? "exceptZero" : "auto",
  }).format(value);
}

/** Return a price with as many decimals as its size needs, or so many. */
export function price(value, decimals = Math.min(10, Math.max(2, 3 - Math.floor(Math.log10(Math.abs(value) || 1))))) {
  if (!isNumber(value)) return DASH;
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** Return a number with so many significant digits. */
export function figure(value, digits = 3) {
  if (!isNumber(value)) return DASH;
  return Math.abs(value) < NOTHING ? "0" : value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** Return a fraction in basis points. */
export function basisPoints(value) {
  return isNumber(value)
    ? `${(value * 1e4).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1, signDisplay: "exceptZero" })} bps`
    : DASH;
}

/** Return an instant as day and minute, UTC. */
export function instant(value) {
  if (!value) return DASH;
  const text = new Date(value).toISOString();
  return `${text.slice(0, 10)} ${text.slice(11, 16)} UTC`;
}

/** Return how long ago an instant was: `3 min ago`. */
export function ago(value, now = Date.now()) {
  if (!value) return DASH;
  const seconds = (now - new Date(value).getTime()) / 1000;
  return seconds < 0 ? `in ${span(-seconds)}` : seconds < 10 ? "just now" : `${span(seconds)} ago`;
}

/** Return a length of time in its two largest units: `1 h 20 min`. */
export function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 && hours < 10 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d`;
}

/** Return the length of a bar such as `15m` in seconds. */
export function barSeconds(timeframe) {
  const match = /^(\d+)([smhdw])$/.exec(timeframe ?? "");
  return match ? Number(match[1]) * UNITS[match[2]] : 3600;
}

/** Return a name in capitals or with underscores as words: `HIGH_VOL` is `High vol`. */
export function words(name) {
  const text = String(name ?? "")
    .replaceAll("_", " ")
    .toLowerCase();
  return text ? text[0].toUpperCase() + text.slice(1) : DASH;
}

/** Return `1 bar`, `2 bars`. */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** Tell whether a value is a finite number. */
export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
