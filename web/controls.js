/** The controls of the page, which write what a person chooses into the page's state. Knows no session. */

import { MaskEditor } from "./mask.js";
import { buildForm, text, title } from "./operators.js";
import { CHOICES, sizeOf } from "./state.js";

const $ = (selector) => document.querySelector(selector);

const START = { scene: "Start with the built-in scene", camera: "Start the camera", file: "Start the video file", screen: "Choose a screen" };

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
  offer(operators, { solver, tiers }) {
    this.page.offered = operators;
    $("#tiers").hidden = tiers.length < 2;
    $("#operator").replaceChildren(...operators.map(({ kind }) => new Option(title(kind), kind)));
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
    const { source, mode, view, operator } = this.page.chosen;
    $("#sound").closest("label").hidden = !["camera", "file"].includes(source);
    $("#start").textContent = START[source];
    $("#cover .small").textContent = source === "scene"
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

function write(input, value) {
  if (input.type === "radio") input.checked = input.value === value;
  else if (input.type === "checkbox") input.checked = value;
  else input.value = value;
}
