/** Wires the page: controls, run, screen and figures around one state. */

import { here, ServerError } from "./api.js";
import { Controls } from "./controls.js";
import { Figures } from "./figures.js";
import { Run } from "./run.js";
import { Screen } from "./screen.js";
import { csv, save } from "./save.js";
import { CHOICES, choicesOf, newPage, operatorOf, queryOf, running } from "./state.js";
import { title } from "./operators.js";
import { advice, sentence } from "./status.js";
import { Watch } from "./watch.js";

const $ = (selector) => document.querySelector(selector);

const page = newPage();
const controls = new Controls(page, onChoice);
const screen = new Screen(page);
const figures = new Figures($("#figures"));
const watch = new Watch();
const run = new Run(page, { controls, screen, figures, onConnected: nameModel });

/** What a choice has to do beside standing in the state. */
const ALSO = {
  mode: () => screen.choosePictures(),
  x_init: () => screen.choosePictures(),
  trust: () => screen.choosePictures(),
  view: () => screen.choosePictures(),
  sound: () => screen.listenToSound(),
  size: () => !running(page) && screen.attract(),
  source: () => !running(page) && screen.attract(),
};

const NEEDS = {
  source: () => page.chosen.source !== "file" && run.switchSource(), // a file is a source once it is chosen, see `takeFile`
  session: () => run.restart(),
  panels: () => run.repanel(),
  change: () => run.change(),
  view: () => {},
};

function onChoice(name) {
  ALSO[name]?.();
  const query = queryOf(page.chosen, page.touched);
  history.replaceState(null, "", (query ? `?${query}` : location.pathname) + location.hash);
  NEEDS[CHOICES[name].needs]();
}

async function start() {
  await offered; // no session opens without an operator
  if (page.chosen.source === "file" && !page.chosen.file) $("#file").click();
  else run.start();
}

async function takeFile([file]) {
  if (!file) return;
  page.chosen.file = file;
  controls.put({ source: "file" });
  await (running(page) ? run.switchSource() : run.start());
}

function chooseFile() {
  const files = [...$("#file").files];
  $("#file").value = ""; // or the same file could not be chosen again
  takeFile(files);
}

function dropFile(event) {
  event.preventDefault();
  takeFile(event.dataTransfer.files);
}

function saveSnapshot() {
  const { kind, png, ...values } = operatorOf(page.chosen);
  const parameters = Object.entries(values).map(([name, value]) => `${name} ${value}`);
  screen.saveSnapshot([[title(kind), ...parameters].join(", "), page.chosen.size, figures.inWords()].join(" · "));
}

/** Saves the chunks of the run that goes on, or of the last one. */
function saveRun(extension) {
  const { operator, solver } = page.runs.inForce ?? {};
  const text = extension === "csv"
    ? csv(figures.run)
    : JSON.stringify({ operator: { ...operator, png: undefined }, solver, size: page.chosen.size, chunks: figures.run }, null, 1);
  save(new Blob([text], { type: extension === "csv" ? "text/csv" : "application/json" }), "run", extension);
}

function useSmaller() {
  page.touched.add("size");
  controls.put({ size: $("#smaller button").value });
  onChoice("size");
}

/** Begins with the largest size that the server holds at full quality, unless the person chose one. */
function fitSize({ start_size: size }) {
  if (!size || page.touched.has("size") || running(page)) return;
  controls.put({ size });
  screen.attract();
}

// ---- theme, keys, token ---------------------------------------------------------------------------------------------

function switchTheme() {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
  setTheme(dark ? "light" : "dark");
  localStorage.setItem("avis-theme", dark ? "light" : "dark");
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

const KEYS = { l: () => screen.toggleLoupe(), s: saveSnapshot, f: () => screen.toggleFullscreen() };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  KEYS[event.key]?.();
}

/** The token in the address, `#token=...`, which goes from there into this tab's memory: an address is soon shared. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("avis-token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("avis-token");
}

// ---- start of the page ----------------------------------------------------------------------------------------------

function listen() {
  $("#start").addEventListener("click", start);
  $("#stop").addEventListener("click", () => run.stop());
  $("#theme").addEventListener("click", switchTheme);
  $("#file").addEventListener("change", chooseFile);
  $("#file").addEventListener("cancel", () => run.keepSource());
  $('input[name="source"][value="file"]').addEventListener("click", () => $("#file").click());
  $("#theatre").addEventListener("dragover", (event) => event.preventDefault());
  $("#theatre").addEventListener("drop", dropFile);
  $("#snapshot").addEventListener("click", saveSnapshot);
  $("#smaller button").addEventListener("click", useSmaller);
  for (const extension of ["csv", "json"]) $(`#save-${extension}`).addEventListener("click", () => saveRun(extension));
  navigator.mediaDevices?.addEventListener?.("devicechange", () => controls.listDevices());
  document.addEventListener("keydown", onKey);
  window.addEventListener("pagehide", () => (run.stop(), watch.stop("")));
}

/** The device is known when the model is loaded. */
async function nameModel() {
  showModel((await here.getModels()).models[0]);
}

function showModel({ name, device }) {
  $("#model").textContent = device ? `${name} on ${device}` : name;
}

/** Fills the panel with what the server has, and says so where it has no answer. */
async function offer() {
  try {
    const [{ operators }, { models: [model] }] = [await here.getOperators(), await here.getModels()];
    controls.offer(operators, model);
    controls.putAddress(choicesOf(location.search));
    screen.choosePictures();
    showModel(model);
    fitSize(model);
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    screen.notice(`${sentence(error)} ${advice(error)} Then load this page again.`);
  }
}

here.token = takeToken();
setTheme(localStorage.getItem("avis-theme"));
listen();
screen.attract();
const offered = offer();
