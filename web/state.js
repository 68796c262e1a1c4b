/** The page's state, declared in one place, and what the server is asked for it. Pure: knows no document and no server. */

/**
 * What a person can choose with a control of the same name: the value to begin with, and what a change of it needs.
 * `source`: another source in the same session. `session`: another session. `panels`: another one if it gives
 * other pictures. `change`: a PATCH of the session. `view`: nothing of the server.
 */
export const CHOICES = {
  source: { first: "film", needs: "source" },
  camera: { first: "", needs: "source" },
  microphone: { first: "", needs: "session" },
  sound: { first: false, needs: "session" },
  mode: { first: "simulate", needs: "session" },
  operator: { first: "", needs: "change" },
  size: { first: "320x192", needs: "session" },
  tier: { first: "faithful", needs: "change" },
  low_latency: { first: false, needs: "session" },
  num_steps: { first: 0, needs: "change" },
  reinject_every: { first: 7, needs: "change" },
  x_init: { first: false, needs: "panels" },
  trust: { first: "off", needs: "panels" },
  view: { first: "wipe", needs: "view" },
};

/** Choices that mean nothing on another machine, and so do not go into the address. */
const OF_THIS_MACHINE = ["camera", "microphone"];

/** The sizes that the page offers, the smallest first. */
export const SIZES = ["256x144", "320x192", "416x240", "832x480"];

/** The choices that go to the server as solver settings. */
export const SOLVER = ["tier", "num_steps", "reinject_every"];

/** A page on which nothing has happened yet. */
export function newPage() {
  const first = Object.fromEntries(Object.entries(CHOICES).map(([name, choice]) => [name, choice.first]));
  return {
    /** What the server has: operators with their JSON schemas. */
    offered: [],
    /** Choices that the person made, here or in the address: the page does not overrule them. */
    touched: new Set(),
    /** What the person wants. `parameters` are by kind of operator, `mask` is the drawing, `file` the video file. */
    chosen: { ...first, parameters: {}, mask: { strokes: [], png: "" }, file: null, against: "degraded", single: "restored", split: 0.5 },
    /** What goes on: a state of status.js, the open source, the settings in force, `turn`, which outdates
     *  what began before, and how many chunks in a row were `simpler` than they could be. */
    runs: { state: "idle", source: null, inForce: null, changing: false, turn: 0, simpler: 0 },
    /** What is on the screen: the pictures of a frame that comes back. */
    shown: { panels: [] },
  };
}

export const running = ({ runs }) => !["idle", "failed"].includes(runs.state);

/** Whether pictures can be sent and come back. */
export const connected = ({ runs }) => ["connected", "streaming", "passthrough"].includes(runs.state);

/** "416x240" as numbers. */
export function sizeOf(text) {
  const [width, height] = text.split("x").map(Number);
  return { width, height };
}

export function operatorOf({ operator: kind, parameters, mask }) {
  const values = { kind, ...parameters[kind] };
  return kind === "mask" ? { ...values, png: mask.png } : values;
}

/** What a session can change while it runs, and the strokes behind the mask's PNG. */
export function settingsOf(chosen) {
  const solver = Object.fromEntries(SOLVER.map((name) => [name, chosen[name]]));
  return { operator: operatorOf(chosen), solver, strokes: chosen.mask.strokes };
}

/** The pictures that come back, in one frame. */
export function panelsOf({ mode, x_init: start, trust }) {
  const wanted = { original: mode === "simulate", degraded: true, x_init: start, trust: trust !== "off", restored: true };
  return Object.keys(wanted).filter((panel) => wanted[panel]);
}

/** The body of POST /sessions, but for the SDP. */
export function requestOf(chosen) {
  const { operator, solver } = settingsOf(chosen);
  const latency = chosen.low_latency ? "low" : "normal";
  return { operator, mode: chosen.mode, size: chosen.size, latency, panels: panelsOf(chosen), solver };
}

/** The parts of `wish` that a PATCH has to ask for. */
export function difference(wish, inForce) {
  return Object.fromEntries(["operator", "solver"].filter((part) => !same(wish[part], inForce[part])).map((part) => [part, wish[part]]));
}

/** The next size below `size`, or null. */
export const smaller = (size) => SIZES[SIZES.indexOf(size) - 1] ?? null;

/**
 * The query of an address that opens the page with these choices: those named in `touched`, which a person made, and
 * what was changed of the operator's parameters, as `KIND.NAME`.
 */
export function queryOf(chosen, touched) {
  const query = new URLSearchParams();
  for (const name of Object.keys(CHOICES)) {
    if (touched.has(name) && !OF_THIS_MACHINE.includes(name)) query.set(name, chosen[name]);
  }
  if (query.has("operator")) {
    for (const [name, value] of Object.entries(chosen.parameters[chosen.operator] ?? {})) query.set(`${chosen.operator}.${name}`, value);
  }
  return query.toString();
}

/** The choices in an address's query, as `{values, parameters}`; what is no choice is left out. Values are of the type they begin with. */
export function choicesOf(search) {
  const [values, parameters] = [{}, {}];
  for (const [key, text] of new URLSearchParams(search)) {
    const [kind, name] = key.split(".");
    if (name) (parameters[kind] ??= {})[name] = typed(text);
    else if (Object.hasOwn(CHOICES, key) && !OF_THIS_MACHINE.includes(key)) values[key] = typeof CHOICES[key].first === "string" ? text : typed(text);
  }
  return { values, parameters };
}

/** A number or a truth value where `text` is one. */
function typed(text) {
  if (text === "true" || text === "false") return text === "true";
  return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
