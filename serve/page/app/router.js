/** Which view the address asks for: `#/symbol/BTCUSDT` is the view `symbol` of BTCUSDT. */

/** Return the name of the view and what it is about. */
export function parse(hash) {
  const [name = "", ...rest] = hash.replace(/^#\/?/, "").split("/");
  return { name: name || "symbols", subject: rest.length ? decoded(rest.join("/")) : null };
}

/** Return the address of one symbol. */
export function symbolAddress(symbol) {
  return `#/symbol/${encodeURIComponent(symbol)}`;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
