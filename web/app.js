/** Wires the page: controls to the keeper, the keeper's events to picture and figures. */

import { getModels, getOperators, ServerError, showToken } from "./api.js";
import { Figures } from "./figures.js";
import { Keeper } from "./keeper.js";
import { MaskEditor } from "./mask.js";
import { buildForm, text, title } from "./operators.js";
import { Scene } from "./scene.js";
import { openSource, SourceError } from "./sources.js";
import { advice, describeState, sentence } from "./status.js";
import { NAMES, View } from "./view.js";

const $ = (selector) => document.querySelector(selector);

const SOLVER = ["num_steps", "reinject_every"];

const view = new View({ canvas: $("#picture"), loupe: $("#loupe") });
const figures = new Figures($("#figures"));
const mask = new MaskEditor($("#mask"), () => change());
const keeper = new Keeper({ onState, onReport, onStream: (stream) => play($("#restored"), stream), awake });

const page = { state: "idle", source: null, file: null, offered: [], values: {}, panels: [], inForce: null, changing: false, turn: 0, timer: null };

// ---- settings -------------------------------------------------------------------------------------------------------

const chosen = (name) => $(`input[name="${name}"]:checked`).value;
const seconds = () => performance.now() / 1000;

function sizeOf(text) {
  const [width, height] = text.split("x").map(Number);
  return { width, height };
}

function operator() {
  const kind = $("#operator").value;
  const values = { kind, ...page.values[kind] };
  return kind === "mask" ? { ...values, png: mask.png() } : values;
}

function solver() {
  const valid = SOLVER.filter((name) => $(`#${name}`).validity.valid);
  return Object.fromEntries(valid.map((name) => [name, $(`#${name}`).valueAsNumber]));
}

/** What a session can change while it runs, and the strokes behind the mask's PNG. */
function settings() {
  return { operator: operator(), solver: solver(), strokes: mask.strokes };
}

/** The pictures that come back, in one frame. */
function panels() {
  const original = chosen("mode") === "simulate" ? ["original"] : [];
  return [...original, "degraded", ...($("#x_init").checked ? ["x_init"] : []), "restored"];
}

function request() {
  page.panels = panels();
  page.inForce = settings();
  return { operator: operator(), mode: chosen("mode"), size: chosen("size"), panels: page.panels, solver: solver() };
}

// ---- start and stop -------------------------------------------------------------------------------------------------

/** Opens the chosen source and keeps a session on it until `stop`. */
async function start() {
  if (chosen("source") === "file" && !page.file) return $("#file").click();
  hideNotice();
  const turn = ++page.turn;
  const source = await openChosen();
  if (turn !== page.turn) return source?.stop();
  if (!source) return stop();
  figures.clear();
  clearInterval(page.timer);
  page.timer = setInterval(tick, 1000);
  use(source);
  await keeper.run(source, request);
}

/** The source that is chosen; null, and a notice, where it does not open. */
async function openChosen() {
  setState("opening", {});
  const kind = chosen("source");
  const wish = { size: sizeOf(chosen("size")), native: chosen("mode") === "incoming", file: page.file, sound: $("#sound").checked };
  try {
    return { kind, ...(await openSource(kind, wish)) };
  } catch (error) {
    if (!(error instanceof SourceError)) throw error;
    notice(error.message);
    return null;
  }
}

function use(source) {
  page.source?.stop();
  page.source = source;
  play($("#local"), source.stream);
  view.show($("#local"), ["source"]);
  watchEnd(source);
}

async function play(video, stream) {
  video.srcObject = stream;
  try {
    await video.play();
  } catch (error) {
    if (error.name !== "AbortError") throw error; // the next stream took its place
  }
}

async function watchEnd(source) {
  await source.ended;
  if (page.source !== source) return;
  stop();
  notice("The source ended. Choose one and start again.");
}

function stop() {
  page.turn += 1;
  keeper.stop();
  clearInterval(page.timer);
  page.source?.stop();
  page.source = null;
  $("#snapshot").disabled = true;
  setState("idle", {});
  attract();
}

/** While nothing runs, the scene moves behind the start button. */
function attract() {
  const { width, height } = sizeOf(chosen("size"));
  view.preview(new Scene(width, height));
}

/** Sound is heard only where it was asked for. */
function listenToSound() {
  $("#restored").muted = !$("#sound").checked;
}

/** Starts anew if something runs: for settings that a session cannot change. */
function restart() {
  if (running()) start();
}

const running = () => !["idle", "failed"].includes(page.state);

/** Another source in the same session, which keeps the one it has where that does not open; without a session, nothing until `start`. */
async function switchSource() {
  describeStart();
  // Not every source has sound, and a session keeps the tracks it began with.
  if ($("#sound").checked || !["connected", "streaming", "passthrough"].includes(page.state)) return restart();
  const [before, turn] = [page.state, page.turn];
  hideNotice();
  const source = await openChosen();
  if (turn !== page.turn) return source?.stop();
  if (!source) return keepSource(before);
  await keeper.replace(source);
  page.source?.stop();
  page.source = source;
  watchEnd(source);
  setState(before, {});
}

function keepSource(state) {
  chooseSource(page.source.kind);
  setState(state, {});
}

function chooseSource(kind) {
  $(`input[name="source"][value="${kind}"]`).checked = true;
  describeStart();
}

/** A file is a source once it is chosen, see `fileChosen`. */
async function sourceChosen() {
  describeStart();
  if (chosen("source") !== "file") await switchSource();
}

async function fileChosen() {
  if (!$("#file").files.length) return;
  page.file = $("#file").files[0];
  $("#file").value = ""; // or the same file could not be chosen again
  chooseSource("file");
  if (running()) await switchSource();
  else await start();
}

function noFileChosen() {
  if (page.source) chooseSource(page.source.kind);
}

function fileDropped(event) {
  event.preventDefault();
  if (!event.dataTransfer.files.length) return;
  $("#file").files = event.dataTransfer.files;
  fileChosen();
}

// ---- what the server tells ------------------------------------------------------------------------------------------

function onReport(report) {
  if (!keeper.session) return; // the last words of a session that was stopped
  figures.report(report, seconds());
  setState(report.rung === "passthrough" ? "passthrough" : "streaming", report);
  figures.draw(seconds());
}

async function tick() {
  if (keeper.session) figures.stats(await keeper.session.stats(), seconds());
  figures.draw(seconds());
}

function setState(state, detail) {
  const before = page.state;
  page.state = state;
  if ((before === "passthrough") !== (state === "passthrough")) label();
  document.body.dataset.state = state;
  const words = describeState(state, detail);
  $("#status").dataset.state = state;
  if ($("#status span").textContent !== words.pill) $("#status span").textContent = words.pill;
  $("#status").title = words.why ?? "";
  $("#wait").hidden = !words.wait;
  $("#wait p").textContent = words.wait ?? "";
  const focused = document.activeElement;
  $("#cover").hidden = running();
  $("#stop").hidden = !running();
  $("#figures").dataset.past = !running() && figures.latest !== null;
  if (focused === $("#start") || focused === $("#stop")) $(running() ? "#stop" : "#start").focus(); // the other one has gone
  if (state === "waiting") showSource();
}

function onState(state, detail) {
  if (state === "failed") stop();
  setState(state, detail);
  if (state === "failed") notice(`${sentence(detail.problem)} ${advice(detail.problem)}`);
  if (state !== "connected") return;
  getModels().then(({ models: [model] }) => showModel(model));
  change(); // what was chosen while it connected
}

/** A page nobody sees sends no pictures, so it opens no session either. */
function awake() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

function showSource() {
  if (page.source && view.video !== $("#local")) view.show($("#local"), ["source"]);
}

/** The restored video takes the place of the preview with its first frame. */
function showRestored() {
  view.show($("#restored"), page.panels);
  $("#snapshot").disabled = false;
}

// ---- changes while it runs ------------------------------------------------------------------------------------------

/** Brings the page's settings into force. One request is on its way at a time: a slider held down asks for where it is by then. */
async function change() {
  if (page.changing) return;
  page.changing = true;
  $("#applies").textContent = "";
  try {
    while (await changeOnce());
  } finally {
    page.changing = false;
  }
}

/** Asks for what is not in force yet; answers whether there was anything. Without a session the next one opens with it. */
async function changeOnce() {
  const { session } = keeper;
  const wish = settings();
  const what = session?.id ? difference(wish, page.inForce) : {};
  if (!Object.keys(what).length) return false;
  $("#applies").textContent = "being asked for…";
  try {
    const from = await session.change(what);
    const lasts = session === keeper.session;
    $("#applies").textContent = lasts ? `from chunk ${from}` : "";
    if (!lasts) return true; // the next one may have begun with something else
    page.inForce = wish;
    hideNotice();
  } catch (error) {
    $("#applies").textContent = "";
    if (!(error instanceof ServerError)) throw error;
    if (session !== keeper.session) return true;
    if (error.status === 404) return false; // it has just ended, which the keeper is about to hear
    if (error.status === 429) return later(error.retryAfter ?? 1); // too many changes: the last wish is asked for soon
    if (same(wish, settings())) takeBack(wish, error);
  }
  return true;
}

/** Resolves to true after `seconds`. */
const later = (seconds) => new Promise((resolve) => setTimeout(() => resolve(true), 1000 * seconds));

/** Shows what is in force again, and why it is not `wish`. */
function takeBack(wish, error) {
  const { operator: { kind, png, ...values }, solver: numbers, strokes } = page.inForce;
  const focused = document.activeElement.dataset.parameter;
  delete page.values[wish.operator.kind];
  page.values[kind] = values;
  mask.show(strokes);
  $("#operator").value = kind;
  chooseOperator();
  if (focused) $(`[data-parameter="${focused}"]`)?.focus();
  for (const [name, value] of Object.entries(numbers)) $(`#${name}`).value = value;
  notice(`Refused: ${error.message.replace(/\.$/, "")}. The session goes on as it was, with ${title(kind)}.`);
}

function difference(wish, inForce) {
  return Object.fromEntries(["operator", "solver"].filter((part) => !same(wish[part], inForce[part])).map((part) => [part, wish[part]]));
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function chooseOperator() {
  const kind = $("#operator").value;
  const { schema } = page.offered.find((o) => o.kind === kind);
  page.values[kind] ??= {};
  $("#operator-text").textContent = text(kind, schema);
  buildForm($("#parameters"), schema, page.values[kind], (name, value) => {
    page.values[kind][name] = value;
    change();
  });
  $("#mask-tools").hidden = kind !== "mask";
  fitMask(sizeOf(chosen("size")));
}

function fitMask({ width, height }) {
  mask.resize(width, height);
  showMask();
}

/** The mask can be drawn where one picture fills the screen. */
function showMask() {
  $("#mask").hidden = $("#operator").value !== "mask" || view.mode === "side";
  $("#mask-text").textContent = view.mode === "side" ? "To draw, choose Wipe or Single under the picture." : "Draw on the picture what the video has lost.";
}

// ---- the picture ----------------------------------------------------------------------------------------------------

function layout({ width, height, columns, rows }) {
  $("#screen").style.setProperty("--w", width);
  $("#screen").style.setProperty("--h", height);
  $("#wipe").hidden = !view.wiping;
  $("#labels").style.setProperty("--columns", view.wiping ? 2 : columns);
  $("#labels").style.setProperty("--rows", view.wiping ? 1 : rows);
  $("#labels").dataset.wipe = view.wiping;
  label();
}

/** Names the pictures; what was only passed through is neither degraded nor restored. */
function label() {
  const name = (panel) => (page.state === "passthrough" ? "Passed through" : NAMES[panel]);
  const labels = view.shown.map((panel) => Object.assign(document.createElement("span"), { textContent: name(panel) }));
  $("#labels").replaceChildren(...labels);
}

function chooseView() {
  view.mode = chosen("view");
  const options = view.mode === "single" ? panels() : panels().filter((p) => p !== "restored");
  const selected = view.mode === "single" ? view.single : view.against;
  $("#against").replaceChildren(...options.map((p) => new Option(NAMES[p], p, p === selected, p === selected)));
  $("#against-label").textContent = view.mode === "single" ? "picture" : "against";
  $(".pick").hidden = view.mode === "side";
  showMask();
  chooseAgainst();
}

function chooseAgainst() {
  view[view.mode === "single" ? "single" : "against"] = $("#against").value;
  view.draw();
}

function setSplit(share) {
  view.split = Math.min(1, Math.max(0, share));
  const percent = Math.round(100 * view.split);
  $("#wipe").style.setProperty("--split", `${percent}%`);
  $("#wipe").setAttribute("aria-valuenow", percent);
  $("#wipe").setAttribute("aria-valuetext", `${percent} % ${NAMES[view.against]}, ${100 - percent} % Restored`);
  view.draw();
}

function within(event) {
  const box = $("#picture").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function drag(event) {
  if (view.wiping && event.buttons) setSplit(within(event)[0]);
}

function look(event) {
  const [x, y] = within(event);
  view.spot = view.spotAt(x, y);
  const box = $("#screen").getBoundingClientRect();
  const below = event.clientY - box.top < box.height / 2;
  $("#loupe").style.setProperty("--x", `${Math.min(Math.max(x, 0.2), 0.8) * 100}%`);
  $("#loupe").style.setProperty("--y", `${y * 100 + (below ? 6 : -6)}%`);
  $("#loupe").dataset.side = below ? "below" : "above";
  if (!$("#loupe").hidden) view.draw();
}

function toggleLoupe() {
  const on = $("#loupe").hidden;
  $("#loupe").hidden = !on;
  $("#loupe-toggle").setAttribute("aria-pressed", on);
  view.spot ??= { x: 0.5, y: 0.5 };
  view.draw();
}

async function saveSnapshot() {
  const blob = await new Promise((resolve) => view.snapshot().toBlob(resolve, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `avis-${operator().kind}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("#theatre").requestFullscreen();
}

// ---- notices, theme, keys -------------------------------------------------------------------------------------------

function notice(message) {
  $("#notice p").textContent = message;
  $("#notice").hidden = false;
}

function hideNotice() {
  $("#notice").hidden = true;
}

function switchTheme() {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
  setTheme(dark ? "light" : "dark");
  localStorage.setItem("avis-theme", dark ? "light" : "dark");
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

const KEYS = { l: toggleLoupe, s: () => !$("#snapshot").disabled && saveSnapshot(), f: toggleFullscreen };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  KEYS[event.key]?.();
}

function wipeKey(event) {
  const step = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  setSplit(view.split + step);
}

// ---- start of the page ----------------------------------------------------------------------------------------------

function describeStart() {
  $("#sound").closest("label").hidden = !["camera", "file"].includes(chosen("source"));
  const words = { scene: "Start with the built-in scene", camera: "Start the camera", file: "Start the video file", screen: "Choose a screen" };
  $("#start").textContent = words[chosen("source")];
  $("#cover .small").textContent = chosen("source") === "scene"
    ? "No camera, no permission needed. Other sources are in the panel."
    : "The video goes to this server and comes back; nothing is stored.";
}

function describeMode() {
  const degrades = chosen("mode") === "simulate";
  $("#about").textContent = `This page sends a video to the server, which ${degrades ? "degrades it on purpose, " : ""}restores it while it runs, and sends both back.`;
  $("#mode-text").textContent = degrades
    ? "The server degrades the video first, so the original is known."
    : "The video is taken for the degraded one, shrunk where that is a small one. Choose below what really is wrong with it: any other choice makes it worse.";
}

function listen() {
  $("#start").addEventListener("click", start);
  $("#stop").addEventListener("click", stop);
  $("#notice button").addEventListener("click", hideNotice);
  $("#theme").addEventListener("click", switchTheme);
  $("#loupe-toggle").addEventListener("click", toggleLoupe);
  $("#snapshot").addEventListener("click", saveSnapshot);
  $("#fullscreen").addEventListener("click", toggleFullscreen);
  $("#restored").addEventListener("loadeddata", showRestored);
  $("#against").addEventListener("change", chooseAgainst);
  $("#operator").addEventListener("change", () => (chooseOperator(), change()));
  $("#mask-clear").addEventListener("click", () => mask.clear());
  $("#brush").addEventListener("input", () => (mask.brush = $("#brush").valueAsNumber));
  $("#file").addEventListener("change", fileChosen);
  $("#file").addEventListener("cancel", noFileChosen);
  $("#theatre").addEventListener("dragover", (event) => event.preventDefault());
  $("#theatre").addEventListener("drop", fileDropped);
  for (const name of SOLVER) $(`#${name}`).addEventListener("change", ({ target }) => target.reportValidity() && change());
  each("view", chooseView);
  each("source", sourceChosen);
  $('input[name="source"][value="file"]').addEventListener("click", () => $("#file").click());
  each("mode", () => (describeMode(), chooseView(), restart()));
  $("#sound").addEventListener("change", () => (listenToSound(), restart()));
  $("#x_init").addEventListener("change", () => (chooseView(), restart()));
  each("size", () => (fitMask(sizeOf(chosen("size"))), running() ? restart() : attract()));
  listenToPicture();
  document.addEventListener("keydown", onKey);
  window.addEventListener("pagehide", stop);
  window.addEventListener("resize", () => view.draw());
  view.onLayout = layout;
}

function listenToPicture() {
  for (const id of ["#picture", "#wipe"]) {
    $(id).addEventListener("pointerdown", (event) => ($(id).setPointerCapture(event.pointerId), drag(event)));
    $(id).addEventListener("pointermove", (event) => (drag(event), look(event)));
  }
  $("#mask").addEventListener("pointermove", look);
  $("#wipe").addEventListener("keydown", wipeKey);
}

function each(name, act) {
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) input.addEventListener("change", act);
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

async function main() {
  showToken(takeToken());
  setTheme(localStorage.getItem("avis-theme"));
  listen();
  describeStart();
  describeMode();
  chooseView();
  setSplit(0.5);
  attract();
  try {
    offer(await getOperators(), await getModels());
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    notice(`${sentence(error)} ${advice(error)} Then load this page again.`);
  }
}

/** The device is known when the model is loaded. */
function showModel({ name, device }) {
  $("#model").textContent = device ? `${name} on ${device}` : name;
}

/** Fills the panel with what the server has. */
function offer({ operators }, { models: [model] }) {
  page.offered = operators;
  $("#operator").replaceChildren(...operators.map(({ kind }) => new Option(title(kind), kind)));
  chooseOperator();
  showModel(model);
  for (const name of SOLVER) $(`#${name}`).value = model.solver[name];
}

main();
