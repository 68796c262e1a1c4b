/** The page's state, declared in one place, and what the server is asked for it. Pure: knows no document and no server. */

/**
 * What a person can choose with a control of the same name: the value to begin with, and what a change of it needs.
 * `source`: another source in the same session. `session`: another session. `panels`: another one if it gives
 * other pictures. `change`: a PATCH of the session. `view`: nothing of the server.
 */
export const CHOICES = {
  source: { first: "scene", needs: "source" },
  sound: { first: false, needs: "session" },
  mode: { first: "simulate", needs: "session" },
  operator: { first: "", needs: "change" },
  size: { first: "320x192", needs: "session" },
  tier: { first: "faithful", needs: "change" },
  num_steps: { first: 0, needs: "change" },
  reinject_every: { first: 7, needs: "change" },
  x_init: { first: false, needs: "panels" },
  trust: { first: "off", needs: "panels" },
  view: { first: "wipe", needs: "view" },
};

/** The choices that go to the server as solver settings. */
export const SOLVER = ["tier", "num_steps", "reinject_every"];

/** A page on which nothing has happened yet. */
export function newPage() {
  const first = Object.fromEntries(Object.entries(CHOICES).map(([name, choice]) => [name, choice.first]));
  return {
    /** What the server has: operators with their JSON schemas. */
    offered: [],
    /** What the person wants. `parameters` are by kind of operator, `mask` is the drawing, `file` the video file. */
    chosen: { ...first, parameters: {}, mask: { strokes: [], png: "" }, file: null, against: "degraded", single: "restored", split: 0.5 },
    /** What goes on: a state of status.js, the open source, the settings in force, and `turn`, which outdates what began before. */
    runs: { state: "idle", source: null, inForce: null, changing: false, turn: 0 },
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
  return { operator, mode: chosen.mode, size: chosen.size, panels: panelsOf(chosen), solver };
}

/** The parts of `wish` that a PATCH has to ask for. */
export function difference(wish, inForce) {
  return Object.fromEntries(["operator", "solver"].filter((part) => !same(wish[part], inForce[part])).map((part) => [part, wish[part]]));
}

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
