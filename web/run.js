/** What runs: the source, the session on it, and changes of its settings. Knows no control. */

import { ServerError } from "./api.js";
import { Keeper } from "./keeper.js";
import { title } from "./operators.js";
import { openSource, SourceError } from "./sources.js";
import { connected, difference, panelsOf, requestOf, running, same, settingsOf, sizeOf, smaller } from "./state.js";
import { advice, sentence } from "./status.js";

const $ = (selector) => document.querySelector(selector);
const SIMPLER_CHUNKS = 4; // in a row, before a smaller size is offered
const seconds = () => performance.now() / 1000;

export class Run {
  /** `onConnected()` hears of every connection, the first one and later ones. */
  constructor(page, { controls, screen, figures, onConnected }) {
    Object.assign(this, { page, controls, screen, figures, onConnected, timer: null });
    this.keeper = new Keeper({
      onState: (state, detail) => this.#onState(state, detail),
      onReport: (report) => this.#onReport(report),
      onStream: (stream) => screen.takeRestored(stream),
      awake,
    });
  }

  // ---- start and stop ----

  /** Opens the chosen source and keeps a session on it until `stop`. */
  async start() {
    const { page, screen, figures } = this;
    screen.hideNotice();
    const turn = ++page.runs.turn;
    const source = await this.#openChosen();
    if (turn !== page.runs.turn) return source?.stop();
    if (!source) return this.stop();
    figures.clear();
    clearInterval(this.timer);
    this.timer = setInterval(() => this.#tick(), 1000);
    this.#take(source);
    screen.showSource(source.stream);
    await this.keeper.run(source, () => this.#request());
  }

  stop() {
    const { runs } = this.page;
    runs.turn += 1;
    runs.simpler = 0;
    this.screen.offerSize(null);
    this.keeper.stop();
    clearInterval(this.timer);
    runs.source?.stop();
    runs.source = null;
    this.#setState("idle", {});
    this.screen.attract();
  }

  /** Starts anew if something runs: for settings that a session cannot change. */
  restart() {
    if (running(this.page)) this.start();
  }

  /** Starts anew if something runs and gives other pictures than those that are chosen. */
  repanel() {
    if (!same(panelsOf(this.page.chosen), this.page.shown.panels)) this.restart();
  }

  /** Another source in the same session, which keeps the one it has where that does not open; without a session, nothing until `start`. */
  async switchSource() {
    const { page, screen } = this;
    // Not every source has sound, and a session keeps the tracks it began with.
    if (page.chosen.sound || !connected(page)) return this.restart();
    const { state: before, turn } = page.runs;
    screen.hideNotice();
    const source = await this.#openChosen();
    if (turn !== page.runs.turn) return source?.stop();
    if (source) {
      await this.keeper.replace(source);
      this.#take(source);
    } else this.keepSource();
    this.#setState(before, {});
  }

  /** Chooses the source again that is open. */
  keepSource() {
    const { source } = this.page.runs;
    if (source) this.controls.put({ source: source.kind });
  }

  /** The source that is chosen; null, and a notice, where it does not open. */
  async #openChosen() {
    this.#setState("opening", {});
    const { source: kind, size, mode, ...rest } = this.page.chosen;
    try {
      const source = { kind, ...(await openSource(kind, { ...rest, size: sizeOf(size), native: mode === "incoming" })) };
      if (kind === "camera") this.controls.listDevices(); // its permission tells their names
      return source;
    } catch (error) {
      if (!(error instanceof SourceError)) throw error;
      this.screen.notice(error.message);
      return null;
    }
  }

  #take(source) {
    const { runs } = this.page;
    runs.source?.stop();
    runs.source = source;
    this.#watchEnd(source);
  }

  async #watchEnd(source) {
    await source.ended;
    if (this.page.runs.source !== source) return;
    this.stop();
    this.screen.notice("The source ended. Choose one and start again.");
  }

  #request() {
    const { chosen, runs, shown } = this.page;
    const request = requestOf(chosen);
    shown.panels = request.panels;
    runs.inForce = settingsOf(chosen);
    return request;
  }

  // ---- what the server tells ----

  #onState(state, detail) {
    if (state === "failed") this.stop();
    this.#setState(state, detail);
    if (state === "failed") this.screen.notice(`${sentence(detail.problem)} ${advice(detail.problem)}`);
    if (state !== "connected") return;
    this.onConnected();
    this.change(); // what was chosen while it connected
  }

  #onReport(report) {
    if (!this.keeper.session) return; // the last words of a session that was stopped
    this.figures.report(report, seconds());
    this.#offerSmaller(report.rung);
    this.#setState(report.rung === "passthrough" ? "passthrough" : "streaming", report);
    this.figures.draw(seconds());
  }

  /** Offers the next smaller size once several chunks in a row were simpler than they could be, and until one is not. */
  #offerSmaller(rung) {
    const { runs, chosen } = this.page;
    runs.simpler = rung === "full" ? 0 : runs.simpler + 1;
    this.screen.offerSize(runs.simpler >= SIMPLER_CHUNKS ? smaller(chosen.size) : null);
  }

  async #tick() {
    const { keeper, figures } = this;
    if (keeper.session) figures.stats(await keeper.session.stats(), seconds());
    figures.draw(seconds());
  }

  #setState(state, detail) {
    this.page.runs.state = state;
    this.screen.describe(detail);
    this.figures.setPast(!running(this.page));
  }

  // ---- changes while it runs ----

  /** Brings the page's settings into force. One request is on its way at a time: a slider held down asks for where it is by then. */
  async change() {
    const { runs } = this.page;
    if (runs.changing) return;
    runs.changing = true;
    $("#applies").textContent = "";
    try {
      while (await this.#changeOnce());
    } finally {
      runs.changing = false;
    }
  }

  /** Asks for what is not in force yet; answers whether there was anything. Without a session the next one opens with it. */
  async #changeOnce() {
    const { page, keeper } = this;
    const { session } = keeper;
    const wish = settingsOf(page.chosen);
    const what = session?.id ? difference(wish, page.runs.inForce) : {};
    if (!Object.keys(what).length) return false;
    $("#applies").textContent = "being asked for…";
    try {
      const from = await session.change(what);
      const lasts = session === keeper.session;
      $("#applies").textContent = lasts ? `from chunk ${from}` : "";
      if (!lasts) return true; // the next one may have begun with something else
      page.runs.inForce = wish;
      this.screen.hideNotice();
    } catch (error) {
      $("#applies").textContent = "";
      if (!(error instanceof ServerError)) throw error;
      if (session !== keeper.session) return true;
      if (error.status === 404) return false; // it has just ended, which the keeper is about to hear
      if (error.status === 429) return later(error.retryAfter ?? 1); // too many changes: the last wish is asked for soon
      if (same(wish, settingsOf(page.chosen))) this.#takeBack(wish, error);
    }
    return true;
  }

  /** Shows what is in force again, and why it is not `wish`. */
  #takeBack(wish, error) {
    const { chosen, runs } = this.page;
    delete chosen.parameters[wish.operator.kind];
    this.controls.putSettings(runs.inForce);
    this.screen.notice(`Refused: ${error.message.replace(/\.$/, "")}. The session goes on as it was, with ${title(runs.inForce.operator.kind)}.`);
  }
}

/** A page nobody sees sends no pictures, so it opens no session either. */
function awake() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

/** Resolves to true after `seconds`. */
const later = (seconds) => new Promise((resolve) => setTimeout(() => resolve(true), 1000 * seconds));
