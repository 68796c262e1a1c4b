/** The operators the server offers, as a form built from their JSON schemas. Knows no session. */

const TITLES = {
  super_resolution: "Super-resolution",
  inpainting: "Inpainting: random pixels",
  gaussian_blur: "Gaussian blur",
  temporal_average: "Temporal average",
  spatio_temporal_average: "Spatio-temporal average",
  mask: "Mask: draw what is lost",
  denoise: "Denoising",
  deinterlace: "Deinterlacing",
  motion_blur: "Motion blur",
  kernel: "Lens blur: any kernel",
  compose: "Blurred, and small",
};

const TEXTS = {
  super_resolution: "The picture is small: each pixel is the mean of a square. Restoring makes it large again.",
  inpainting: "Pixels are lost at random places. Restoring fills them in.",
  gaussian_blur: "The picture is out of focus. Restoring sharpens it.",
  temporal_average: "Each frame is the mean of several: motion smears. Restoring freezes it.",
  spatio_temporal_average: "Small and smeared at once: cheap, slow video.",
  mask: "Parts of the picture are covered: dirt, a scratch, a logo. Restoring paints them in.",
  denoise: "The picture is complete and noisy: say how noisy. Restoring takes the noise away.",
  deinterlace: "Each frame holds every other line, as an old tape does. Restoring finds the lines between.",
  motion_blur: "The camera moved while the shutter was open. Restoring sharpens along its way.",
  kernel: "The lens is out of focus. Programs may send any kernel; here it is a small disc.",
  compose: "Several faults, one after the other. Programs may send a list; here it is a blur and a smaller picture.",
};

const NO_CONTROL = ["kind", "png", "seed"];
const REACH = 10; // a slider goes to this multiple of the default, so that the default is not stuck at its end

export function title(kind) {
  return TITLES[kind] ?? kind.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase());
}

export function text(kind, schema) {
  return TEXTS[kind] ?? schema.description ?? "";
}

/** The parameters of a schema that a person sets: `[name, {type, choices | min, max, step, value, text}]`. Pure. */
export function parameters(schema) {
  return Object.entries(schema.properties)
    .filter(([name, p]) => !NO_CONTROL.includes(name) && p.type !== "array" && !("const" in p) && p.default !== undefined)
    .map(([name, p]) => [name, field(p)]);
}

function field(p) {
  const common = { value: p.default, text: p.description ?? "" };
  if (p.enum) return { ...common, type: "choice", choices: p.enum };
  if (p.type === "boolean") return { ...common, type: "switch" };
  return { ...common, type: "number", ...range(p) };
}

/** The slider of a number: whole steps for integers, otherwise about a hundred steps. Pure. */
export function range(p) {
  const step = p.type === "integer" ? 1 : niceStep((p.maximum ?? p.exclusiveMaximum ?? 1) - (p.minimum ?? 0), p.default);
  const least = p.minimum === undefined ? undefined : Number((Math.ceil(p.minimum / step - 1e-6) * step).toPrecision(12)); // a whole step
  const min = least ?? (p.exclusiveMinimum !== undefined ? p.exclusiveMinimum + step : 0);
  const max = p.maximum ?? (p.exclusiveMaximum !== undefined ? p.exclusiveMaximum - step : Math.max(1, 4 * p.default));
  return { min, max: p.default > 0 ? Math.min(max, REACH * p.default) : max, step };
}

function niceStep(span, value) {
  const rough = Math.min(span / 50, value / 5 || span / 50);
  return 10 ** Math.floor(Math.log10(rough));
}

/** Fills `box` with one control a parameter; `onChange(name, value)` when a person has set one. */
export function buildForm(box, schema, values, onChange) {
  box.replaceChildren(...parameters(schema).map(([name, f]) => control(name, f, values[name] ?? f.value, onChange)));
}

function control(name, f, value, onChange) {
  const label = Object.assign(document.createElement("label"), { className: "row", title: f.text });
  const caption = document.createElement("span");
  caption.textContent = name.replaceAll("_", " ");
  const input = f.type === "choice" ? choice(f, value) : entry(f, value);
  input.dataset.parameter = name;
  label.append(caption, input);
  if (input.type === "range") label.append(reading(input));
  input.addEventListener("change", () => onChange(name, read(input, f)));
  return label;
}

function choice(f, value) {
  const select = document.createElement("select");
  select.append(...f.choices.map((c) => new Option(String(c), String(c), c === value, c === value)));
  return select;
}

function entry(f, value) {
  const input = document.createElement("input");
  if (f.type === "switch") return Object.assign(input, { type: "checkbox", checked: value });
  Object.assign(input, { type: "range", min: f.min, max: f.max, step: f.step });
  input.value = value; // after min, max and step, which would round it
  return input;
}

function reading(input) {
  const output = document.createElement("output");
  const tell = () => (output.textContent = String(Number(input.value)));
  input.addEventListener("input", tell);
  tell();
  return output;
}

function read(input, f) {
  if (f.type === "switch") return input.checked;
  if (f.type === "choice") return f.choices[input.selectedIndex];
  return Number(input.value);
}
