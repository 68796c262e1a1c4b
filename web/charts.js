/** Small SVG charts: a line over the last minute, a bar a chunk. Knows only numbers. */

const NS = "http://www.w3.org/2000/svg";

export function node(name, attributes = {}, children = []) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Lowest and highest of `values`, moved apart where they are nearly equal, so that noise looks like noise. Pure. */
export function bounds(values, least) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const missing = Math.max(0, least - (high - low)) / 2;
  return [low - missing, high + missing];
}

/** Lines over time in `svg`. `lines` is `[{points: [[age, value]], name}]`, `least` the smallest span of the value axis. */
export function sparkline(svg, lines, least) {
  const values = lines.flatMap(({ points }) => points.map(([, value]) => value));
  svg.setAttribute("viewBox", "0 0 100 28");
  svg.setAttribute("preserveAspectRatio", "none");
  if (values.length < 2) return svg.replaceChildren();
  const [low, high] = bounds(values, least);
  const y = (value) => 26 - (24 * (value - low)) / (high - low);
  svg.replaceChildren(...lines.map(({ points, name }) => line(points, y, name)));
}

function line(points, y, name) {
  const d = points.map(([age, value], i) => `${i ? "L" : "M"}${(age * 100).toFixed(2)} ${y(value).toFixed(2)}`).join("");
  return node("path", { d, class: name, "vector-effect": "non-scaling-stroke" });
}

/** One bar a chunk: `bars` is `[{age, value, rung, guided}]`, `floor` a value drawn as a line. */
export function bars(svg, list, floor, seconds) {
  const [width, height] = [600, 84];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const top = 1.15 * Math.max(floor * 1.5, ...list.map(({ value }) => value));
  const y = (value) => height - (value / top) * (height - 10);
  const wide = Math.max(3, (width / seconds) * 0.5);
  const drawn = list.flatMap((bar) => oneBar(bar, bar.age * width - wide, y(bar.value), wide, height));
  if (floor && list.length) drawn.push(node("line", { x1: 0, x2: width, y1: y(floor), y2: y(floor), class: "floor" }));
  svg.replaceChildren(...drawn);
}

function oneBar({ rung, guided, title }, x, y, width, height) {
  const bar = node("rect", { x, y, width, height: height - y, rx: 1.5, class: `rung-${rung}` }, [node("title", {}, [title])]);
  return guided ? [bar, node("circle", { cx: x + width / 2, cy: y - 5, r: 2.4, class: "guided" })] : [bar];
}
