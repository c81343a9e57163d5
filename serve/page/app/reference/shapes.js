/** Shapes of JSON as readers see them: the type of a value in words, and the fields of an object as a table. */

import { h } from "../dom.js";

const LIMITS = {
  minimum: "≥ ",
  exclusiveMinimum: "> ",
  maximum: "≤ ",
  exclusiveMaximum: "< ",
  minLength: "length ≥ ",
  maxLength: "length ≤ ",
  minItems: "items ≥ ",
  maxItems: "items ≤ ",
  maxProperties: "keys ≤ ",
  pattern: "like ",
};

/** Return the type of a value as text and links to named shapes. */
export function typeOf(schema) {
  if (schema.$ref) return shapeLink(schema.$ref.split("/").at(-1));
  if (schema.anyOf) return joined(schema.anyOf.map(typeOf));
  if (schema.type === "array") return [typeOf(schema.items ?? {}), "[]"];
  if (schema.type === "object" && schema.additionalProperties) return ["{ name: ", typeOf(schema.additionalProperties), " }"];
  return [schema.format ?? schema.type ?? "any"];
}

/** Return the limits of a value in words. */
export function limitsOf(schema) {
  const parts = [schema, ...(schema.anyOf ?? [])];
  const found = parts.flatMap((part) => Object.entries(LIMITS).map(([name, words]) => name in part && words + part[name]));
  return found.filter(Boolean).join(", ");
}

/** Return the fields of an object as a table. */
export function fieldTable({ properties = {}, required = [] }) {
  const rows = Object.entries(properties).map(([name, field]) => fieldRow(name, field, required.includes(name), field.description));
  return h("table", { class: "figures fields" }, h("tbody", {}, rows));
}

/** Return one field: its name, type, and what is said of it. */
export function fieldRow(name, schema, isRequired, description) {
  const limits = limitsOf(schema);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("code", {}, name), isRequired && h("span", { class: "badge" }, "required")),
    h("td", {}, h("code", {}, typeOf(schema))),
    h("td", {}, description, limits && h("p", { class: "hint" }, limits)),
  );
}

/** Return a named shape, closed at first. */
export function shapeCard([name, schema]) {
  return h(
    "details",
    { class: "card", id: `shape-${name}` },
    h("summary", {}, h("code", {}, name)),
    h("p", { class: "hint" }, schema.description),
    fieldTable(schema),
  );
}

/** Return an example of a value, as short as the shape allows. */
export function exampleOf(schema, schemas, depth = 0) {
  if (schema.$ref) return exampleOf(schemas[schema.$ref.split("/").at(-1)] ?? {}, schemas, depth);
  if ("default" in schema && schema.default !== null) return schema.default;
  if (schema.anyOf) return exampleOf(schema.anyOf[0], schemas, depth);
  if (schema.type === "object") return depth > 3 ? {} : objectExample(schema, schemas, depth);
  if (schema.type === "array") return depth > 3 ? [] : [exampleOf(schema.items ?? {}, schemas, depth + 1)];
  if (schema.format === "date-time") return "2026-01-01T00:00:00Z";
  return { number: 1, integer: schema.minimum ?? 1, boolean: false }[schema.type] ?? "BTCUSDT";
}

function objectExample(schema, schemas, depth) {
  const wanted = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).filter(([name]) => wanted.has(name) || name === "symbols");
  return Object.fromEntries(fields.map(([name, field]) => [name, exampleOf(field, schemas, depth + 1)]));
}

function shapeLink(name) {
  const open = () => document.getElementById(`shape-${name}`)?.setAttribute("open", "");
  return h("a", { href: `#shape-${name}`, on: { click: open } }, name);
}

function joined(parts) {
  return parts.flatMap((part, place) => (place ? [" | ", part] : [part]));
}
