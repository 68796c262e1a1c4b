/** The picture and what lies over it: labels, wipe, loupe, cover, words of the state. Knows no session. */

import { Scene } from "./scene.js";
import { FILM } from "./sources.js";
import { save } from "./save.js";
import { panelsOf, running, sizeOf } from "./state.js";
import { describeState } from "./status.js";
import { NAMES, View } from "./view.js";

const $ = (selector) => document.querySelector(selector);

export class Screen {
  constructor(page) {
    this.page = page;
    this.view = new View({ canvas: $("#picture"), loupe: $("#loupe"), sight: page.chosen });
    this.view.onLayout = (layout) => this.#layout(layout);
    this.#listen();
    this.choosePictures();
    this.split(page.chosen.split);
  }

  // ---- what is shown ----

  /** While nothing runs, the film or the drawn scene moves behind the start button. */
  attract() {
    const { size, source } = this.page.chosen;
    const { width, height } = sizeOf(size);
    $("#snapshot").disabled = true;
    if (source !== "film") return this.view.preview(new Scene(width, height));
    const plays = $("#local").srcObject === null && $("#local").getAttribute("src") === FILM;
    if (!plays) Object.assign($("#local"), { srcObject: null, src: FILM, loop: true });
    $("#local").play().catch((error) => console.info(`the film does not play: ${error.message}`)); // Start says it to the person
    this.view.show($("#local"), ["film"]);
  }

  /** Offers another size in one click; null takes the offer back. */
  offerSize(size) {
    $("#smaller").hidden = size === null;
    if (size === null || $("#smaller button").value === size) return;
    $("#smaller button").value = size;
    $("#smaller button").textContent = `Use ${size.replace("x", " × ")}`;
  }

  /** Shows what is sent. */
  showSource(stream) {
    play($("#local"), stream);
    this.view.show($("#local"), ["source"]);
  }

  /** Shows what is sent again, in the place of a restored picture that stands still. */
  backToSource() {
    if (this.page.runs.source && this.view.video !== $("#local")) this.view.show($("#local"), ["source"]);
  }

  /** Takes the restored video, which comes into sight with its first frame. */
  takeRestored(stream) {
    play($("#restored"), stream);
  }

  /** Sound is heard only where it was asked for. */
  listenToSound() {
    $("#restored").muted = !this.page.chosen.sound;
  }

  /** Puts the page's state into words: the pill, the cover with the start button, the words over a picture that waits. */
  describe(detail) {
    const { state } = this.page.runs;
    const words = describeState(state, detail);
    const runs = running(this.page);
    document.body.dataset.state = $("#status").dataset.state = state;
    if ($("#status span").textContent !== words.pill) $("#status span").textContent = words.pill;
    $("#status").title = words.why ?? "";
    $("#wait").hidden = !words.wait;
    $("#wait p").textContent = words.wait ?? "";
    const focused = document.activeElement;
    $("#cover").hidden = runs;
    $("#stop").hidden = !runs;
    if (focused === $("#start") || focused === $("#stop")) $(runs ? "#stop" : "#start").focus(); // the other one has gone
    if (this.labelledFor !== (state === "passthrough")) this.#label();
    if (state === "waiting") this.backToSource();
  }

  notice(message) {
    $("#notice p").textContent = message;
    $("#notice").hidden = false;
  }

  hideNotice() {
    $("#notice").hidden = true;
  }

  // ---- how it is shown ----

  /** Offers the pictures that can stand against the restored one, or alone. */
  choosePictures() {
    const { chosen } = this.page;
    const alone = chosen.view === "single";
    $("#trust-legend").hidden = chosen.trust === "off";
    const hidden = [...(alone ? [] : ["restored"]), ...(chosen.trust === "over" ? ["trust"] : [])];
    const options = panelsOf(chosen).filter((panel) => !hidden.includes(panel));
    const selected = alone ? chosen.single : chosen.against;
    $("#against").replaceChildren(...options.map((p) => new Option(NAMES[p], p, p === selected, p === selected)));
    $("#against-label").textContent = alone ? "picture" : "against";
    $(".pick").hidden = chosen.view === "side";
    this.#chooseAgainst();
  }

  /** Puts the wipe at `share` of the picture's width. */
  split(share) {
    const { chosen } = this.page;
    chosen.split = Math.min(1, Math.max(0, share));
    const percent = Math.round(100 * chosen.split);
    $("#wipe").style.setProperty("--split", `${percent}%`);
    $("#wipe").setAttribute("aria-valuenow", percent);
    $("#wipe").setAttribute("aria-valuetext", `${percent} % ${NAMES[chosen.against]}, ${100 - percent} % Restored`);
    this.view.draw();
  }

  toggleLoupe() {
    const on = $("#loupe").hidden;
    $("#loupe").hidden = !on;
    $("#loupe-toggle").setAttribute("aria-pressed", on);
    this.view.spot ??= { x: 0.5, y: 0.5 };
    this.view.draw();
  }

  toggleFullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else $("#theatre").requestFullscreen();
  }

  /** Saves the pictures with their names and `figures`, a line, under them. */
  async saveSnapshot(figures) {
    if ($("#snapshot").disabled) return;
    const picture = this.view.snapshot(figures);
    save(await new Promise((resolve) => picture.toBlob(resolve, "image/png")), this.page.chosen.operator, "png");
  }

  #layout({ width, height, columns, rows }) {
    const { wiping } = this.view;
    $("#screen").style.setProperty("--w", width);
    $("#screen").style.setProperty("--h", height);
    $("#wipe").hidden = !wiping;
    $("#labels").style.setProperty("--columns", wiping ? 2 : columns);
    $("#labels").style.setProperty("--rows", wiping ? 1 : rows);
    $("#labels").dataset.wipe = wiping;
    this.#label();
  }

  /** Names the pictures; what was only passed through is neither degraded nor restored. */
  #label() {
    this.labelledFor = this.page.runs.state === "passthrough";
    const over = this.page.chosen.trust === "over" && this.view.panels.includes("trust");
    const name = (panel) => (this.labelledFor ? "Passed through" : NAMES[panel] + (over && panel === "restored" ? " + trust map" : ""));
    const labels = this.view.shown.map((panel) => Object.assign(document.createElement("span"), { textContent: name(panel) }));
    $("#labels").replaceChildren(...labels);
  }

  #chooseAgainst() {
    const { chosen } = this.page;
    chosen[chosen.view === "single" ? "single" : "against"] = $("#against").value;
    this.view.draw();
  }

  #listen() {
    $("#loupe-toggle").addEventListener("click", () => this.toggleLoupe());
    $("#fullscreen").addEventListener("click", () => this.toggleFullscreen());
    $("#notice button").addEventListener("click", () => this.hideNotice());
    $("#against").addEventListener("change", () => this.#chooseAgainst());
    $("#restored").addEventListener("loadeddata", () => this.#showRestored());
    for (const element of [$("#picture"), $("#wipe")]) {
      element.addEventListener("pointerdown", (event) => (element.setPointerCapture(event.pointerId), this.#drag(event)));
      element.addEventListener("pointermove", (event) => (this.#drag(event), this.#look(event)));
    }
    $("#mask").addEventListener("pointermove", (event) => this.#look(event));
    $("#wipe").addEventListener("keydown", (event) => this.#wipeKey(event));
    window.addEventListener("resize", () => this.view.draw());
  }

  /** The restored video takes the place of the preview with its first frame. */
  #showRestored() {
    this.view.show($("#restored"), this.page.shown.panels);
    $("#snapshot").disabled = false;
  }

  #drag(event) {
    if (this.view.wiping && event.buttons) this.split(within(event)[0]);
  }

  #look(event) {
    const [x, y] = within(event);
    this.view.spot = this.view.spotAt(x, y);
    const box = $("#screen").getBoundingClientRect();
    const below = event.clientY - box.top < box.height / 2;
    $("#loupe").style.setProperty("--x", `${Math.min(Math.max(x, 0.2), 0.8) * 100}%`);
    $("#loupe").style.setProperty("--y", `${y * 100 + (below ? 6 : -6)}%`);
    $("#loupe").dataset.side = below ? "below" : "above";
    if (!$("#loupe").hidden) this.view.draw();
  }

  #wipeKey(event) {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.split(this.page.chosen.split + step);
  }
}

/** Where on the picture an event is, in [0, 1]. */
function within(event) {
  const box = $("#picture").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

async function play(video, stream) {
  video.srcObject = stream;
  try {
    await video.play();
  } catch (error) {
    if (error.name !== "AbortError") throw error; // the next stream took its place
  }
}
