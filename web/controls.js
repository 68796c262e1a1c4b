/** The controls of the page, which write what a person chooses into the page's state. Knows no session. */

import { MaskEditor } from "./mask.js";
import { buildForm, text, title } from "./operators.js";
import { CHOICES, sizeOf } from "./state.js";

const $ = (selector) => document.querySelector(selector);

const START = { film: "Start with the film", scene: "Start with the drawn scene", camera: "Start the camera", file: "Start the video file", screen: "Choose a screen", tab: "Choose a tab" };

export class Controls {
  /** `onChoice(name)` hears of every choice, after it stands in `page.chosen`; parameters and the mask count as `operator`. */
  constructor(page, onChoice) {
    Object.assign(this, { page, onChoice });
    this.mask = new MaskEditor($("#mask"), () => this.#drawn());
    for (const name of Object.keys(CHOICES)) this.#bind(name);
    $("#mask-clear").addEventListener("click", () => this.mask.clear());
    $("#brush").addEventListener("input", () => (this.mask.brush = $("#brush").valueAsNumber));
    this.describe();
  }

  /** Fills the panel with what the server has. */
  offer(operators, { solver, tiers, latencies }) {
    this.page.offered = operators;
    $("#tiers").hidden = tiers.length < 2;
    $("#operator").replaceChildren(...operators.map(({ kind }) => new Option(title(kind), kind)));
    $("#low_latency").closest("label").hidden = !latencies.includes("low");
    this.put({ operator: operators[0].kind, ...solver });
  }

  /** Chooses for the person: `values` by name. Asks for nothing. */
  put(values) {
    for (const [name, value] of Object.entries(values)) {
      if (!(name in CHOICES)) continue;
      this.page.chosen[name] = value;
      for (const input of document.getElementsByName(name)) write(input, value);
    }
    this.describe();
  }

  /** Chooses what an address asks for, see `choicesOf`, as far as this page and this server have it. */
  putAddress({ values, parameters }) {
    for (const [name, value] of Object.entries(values)) {
      const inputs = [...document.getElementsByName(name)];
      if (!inputs.some((input) => accepts(input, value))) continue;
      this.page.touched.add(name);
      this.put({ [name]: value });
    }
    for (const { kind, schema } of this.page.offered) {
      const known = Object.entries(parameters[kind] ?? {}).filter(([name]) => Object.hasOwn(schema.properties, name));
      this.page.chosen.parameters[kind] = Object.fromEntries(known);
    }
    this.describe();
  }

  /** Offers the cameras and microphones of this machine; their names are known once one was allowed. */
  async listDevices() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    for (const [id, kind, first] of [["camera", "videoinput", "The browser's choice"], ["microphone", "audioinput", "The browser's choice"]]) {
      const found = devices.filter((device) => device.kind === kind && device.deviceId && device.label);
      const options = found.map(({ deviceId, label }) => new Option(label, deviceId));
      $(`#${id}`).replaceChildren(new Option(first, ""), ...options);
      if (!found.some(({ deviceId }) => deviceId === this.page.chosen[id])) this.page.chosen[id] = "";
      $(`#${id}`).value = this.page.chosen[id];
    }
    this.describe();
  }

  /** Shows settings that were in force once (see `settingsOf`); the focus stays on its parameter. */
  putSettings({ operator: { kind, png, ...values }, solver, strokes }) {
    const focused = document.activeElement.dataset.parameter;
    this.page.chosen.parameters[kind] = values;
    this.mask.show(strokes);
    this.put({ operator: kind, ...solver });
    if (focused) $(`[data-parameter="${focused}"]`)?.focus();
  }

  /** Says what the choices mean, and shows the controls that they need. */
  describe() {
    const { source, mode, view, operator, sound } = this.page.chosen;
    $("#sound").closest("label").hidden = !["camera", "file", "tab"].includes(source);
    $("#camera").closest("label").hidden = source !== "camera" || $("#camera").length < 2;
    $("#microphone").closest("label").hidden = source !== "camera" || !sound || $("#microphone").length < 2;
    $("#start").textContent = START[source];
    $("#cover .small").textContent = ["film", "scene"].includes(source)
      ? "No camera, no permission needed. Other sources are in the panel."
      : "The video goes to this server and comes back; nothing is stored.";
    describeMode(mode === "simulate");
    this.#describeOperator(operator);
    this.#fitMask(operator === "mask", view === "side");
  }

  #bind(name) {
    for (const input of document.getElementsByName(name)) {
      input.addEventListener("change", () => {
        if (!input.reportValidity()) return;
        this.page.chosen[name] = read(input);
        this.page.touched.add(name);
        this.describe();
        this.onChoice(name);
      });
    }
  }

  #describeOperator(kind) {
    const { offered, chosen } = this.page;
    const schema = offered.find((operator) => operator.kind === kind)?.schema;
    const values = schema && (chosen.parameters[kind] ??= {});
    if (!schema || values === this.formOf) return; // the form is there, and may have the focus
    this.formOf = values;
    $("#operator-text").textContent = text(kind, schema);
    buildForm($("#parameters"), schema, values, (name, value) => {
      values[name] = value;
      this.page.touched.add("operator");
      this.onChoice("operator");
    });
  }

  /** The mask can be drawn where one picture fills the screen. */
  #fitMask(wanted, sideBySide) {
    const { width, height } = sizeOf(this.page.chosen.size);
    this.mask.resize(width, height);
    this.#keepMask();
    $("#mask-tools").hidden = !wanted;
    $("#mask").hidden = !wanted || sideBySide;
    $("#mask-text").textContent = sideBySide ? "To draw, choose Wipe or Single under the picture." : "Draw on the picture what the video has lost.";
  }

  #drawn() {
    this.#keepMask();
    this.onChoice("operator");
  }

  #keepMask() {
    this.page.chosen.mask = { strokes: this.mask.strokes, png: this.mask.png() };
  }
}

function describeMode(degrades) {
  $("#about").textContent = `This page sends a video to the server, which ${degrades ? "degrades it on purpose, " : ""}restores it while it runs, and sends both back.`;
  $("#mode-text").textContent = degrades
    ? "The server degrades the video first, so the original is known."
    : "The video is taken for the degraded one, shrunk where that is a small one. Choose below what really is wrong with it: any other choice makes it worse.";
}

function read(input) {
  if (input.type === "checkbox") return input.checked;
  return input.type === "number" ? input.valueAsNumber : input.value;
}

/** Whether a control can stand at `value`. */
function accepts(input, value) {
  if (input.type === "radio") return input.value === value;
  if (input.type === "checkbox") return typeof value === "boolean";
  if (input.type === "number") return Number.isInteger(value) && value >= input.min && value <= input.max;
  return [...input.options].some((option) => option.value === String(value));
}

function write(input, value) {
  if (input.type === "radio") input.checked = input.value === value;
  else if (input.type === "checkbox") input.checked = value;
  else input.value = value;
}
