/** Gives the person a file; and a run's chunks as CSV. */

/** Saves `blob` as avis-NAME-TIME.EXTENSION. */
export function save(blob, name, extension) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `avis-${name}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** `rows`, flat or nested objects, as CSV (RFC 4180): a column a key, `ms.total` for one inside another. Pure. */
export function csv(rows) {
  const flat = rows.map((row) => Object.fromEntries(leaves(row)));
  const columns = [...new Set(flat.flatMap(Object.keys))];
  const lines = [columns, ...flat.map((row) => columns.map((column) => row[column] ?? ""))];
  return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

function leaves(value, path = []) {
  if (value === null || typeof value !== "object") return [[path.join("."), value]];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, [...path, key]));
}

function cell(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
