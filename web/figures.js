/** The live figures under the picture, from chunk reports and the browser's statistics. Knows no session. */

import { bars, sparkline } from "./charts.js";
import { History, readStats } from "./history.js";

const SECONDS = 60;
const LONGEST_RUN = 5000; // chunks that can be saved: about an hour
const RUNGS = {
  full: "full quality",
  one_step: "one step",
  no_reinjection: "no re-injection",
  x_init: "start only (x_init)",
  passthrough: "passed through",
};
const STAGES = ["simulate", "x_init", "encode", "denoise", "prox", "decode", "cache", "trust", "transfer"];

export class Figures {
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    Object.assign(this, { chunks: new History(SECONDS), network: new History(SECONDS), before: null, latest: null, run: [] });
    this.draw(0);
  }

  /** Whether what is shown is over. */
  setPast(past) {
    this.root.dataset.past = past && this.latest !== null;
  }

  /** A chunk's report at `now` seconds. */
  report(report, now) {
    this.latest = report;
    this.run = [...this.run.slice(1 - LONGEST_RUN), { at: new Date().toISOString(), ...report }];
    this.chunks.push(now, {
      ...report,
      title: describe(report),
    });
  }

  /** The figures of the latest chunk in a line. */
  inWords() {
    const { chunk, rung, psnr, psnr_x_init: start, residual, latency_ms: latency } = this.latest ?? {};
    if (chunk === undefined) return "";
    const words = [`chunk ${chunk}, ${RUNGS[rung] ?? rung}`, latency && `latency ${(latency / 1000).toFixed(2)} s`];
    if (residual !== null) words.push(`residual ${residual}`);
    if (psnr !== undefined) words.push(`PSNR ${psnr} dB (start ${start} dB)`);
    return words.filter(Boolean).join(" · ");
  }

  /** The browser's statistics at `now` seconds. */
  stats(reports, now) {
    this.before = readStats(reports, this.before);
    this.network.push(now, this.before);
  }

  draw(now) {
    this.#latency(now);
    this.#psnr(now);
    this.#residual(now);
    this.#flicker(now);
    this.#fps(now);
    this.#chunks(now);
    this.#stages();
    this.#trust();
  }

  #latency(now) {
    const server = this.chunks.last("latency_ms");
    const network = (this.network.last("jitter") ?? 0) + (this.network.last("rtt") ?? 0);
    const fill = this.latest?.ms?.fill;
    this.#text("latency", server === null ? "–" : `${((server + network) / 1000).toFixed(2)} s`, fill ? `${(fill / 1000).toFixed(2)} s of it to fill a chunk` : "input to output");
    this.#spark("latency", [{ points: this.chunks.series("latency_ms", now), name: "main" }], 200);
  }

  #psnr(now) {
    const { psnr = null, psnr_x_init: start = null } = this.latest ?? {};
    const gain = psnr !== null && start !== null ? `${psnr >= start ? "+" : "−"}${Math.abs(psnr - start).toFixed(1)} dB over x_init (${start.toFixed(1)})` : "only where the original is known";
    this.#text("psnr", psnr === null ? "–" : `${psnr.toFixed(1)} dB`, gain);
    this.#spark("psnr", [
      { points: this.chunks.series("psnr_x_init", now), name: "faint" },
      { points: this.chunks.series("psnr", now), name: "main" },
    ], 1);
  }

  #residual(now) {
    const residual = this.latest?.residual ?? null;
    this.#text("residual", residual === null ? "–" : residual.toPrecision(2), "‖y − A x‖ / ‖y‖: distance from what was measured");
    this.#spark("residual", [{ points: this.chunks.series("residual", now), name: "main" }], 0.005);
  }

  #flicker(now) {
    const { flicker = null, psnr = null } = this.latest ?? {};
    const against = psnr === null ? "the start, x_init" : "the original";
    this.#text("flicker", flicker === null ? "–" : flicker.toFixed(2), flicker === null ? "only where something moves" : `change from frame to frame, over that of ${against}`);
    this.#spark("flicker", [{ points: this.chunks.series("flicker", now), name: "main" }], 0.1);
  }

  #fps(now) {
    const [shown, sent] = [this.network.last("shownFps"), this.network.last("sentFps")];
    const kbit = this.network.last("kbit");
    this.#text("fps", shown === null ? "–" : shown.toFixed(1), sent === null ? "" : `${sent.toFixed(1)} sent · ${(kbit / 1000).toFixed(1)} Mbit/s back · ${count(this.before.freezes, "freeze")}`);
    this.#spark("fps", [
      { points: this.network.series("sentFps", now), name: "faint" },
      { points: this.network.series("shownFps", now), name: "main" },
    ], 4);
  }

  #chunks(now) {
    const list = this.chunks.points.map((p) => ({
      age: 1 - (now - p.at) / SECONDS, value: p.latency_ms ?? 0, rung: p.rung, guided: p.guided, title: p.title,
    }));
    bars(this.root.querySelector("#chunks"), list, this.latest?.ms?.fill ?? 0, SECONDS);
    const rung = this.root.querySelector("#rung");
    rung.textContent = this.latest ? `chunk ${this.latest.chunk} · ${RUNGS[this.latest.rung] ?? this.latest.rung}${this.latest.guided ? " · guided" : ""}` : "";
    rung.dataset.rung = this.latest?.rung ?? "";
    this.#legend(new Set(list.map((bar) => bar.rung)), list.some((bar) => bar.guided));
  }

  #legend(rungs, guided) {
    const entries = Object.keys(RUNGS).filter((rung) => rungs.has(rung)).map((rung) => [`rung-${rung}`, RUNGS[rung]]);
    if (guided) entries.push(["guided", "guided by the measurement"]);
    if (entries.length) entries.push(["floor", "floor: a chunk has to fill"]);
    const key = entries.join();
    if (key === this.legendKey) return;
    this.legendKey = key;
    this.root.querySelector("#legend").replaceChildren(...entries.map(([name, words]) => {
      const item = Object.assign(document.createElement("li"), { textContent: words });
      item.dataset.key = name;
      return item;
    }));
  }

  #stages() {
    const ms = this.latest?.ms ?? {};
    const stages = STAGES.filter((stage) => ms[stage] > 0).map((stage) => [stage, ms[stage]]);
    this.root.querySelector("#stages").replaceChildren(...stages.map(([stage, value]) => stageBar(stage, value)));
    const { dropped = 0, shed = 0 } = this.latest ?? {};
    const lost = this.chunks.sum("lost");
    this.root.querySelector("#drops").textContent = this.latest
      ? `${Math.round(ms.total ?? 0)} ms in all, ${Math.round(ms.queue ?? 0)} ms queued · ${count(dropped, "frame")} dropped, ${count(shed, "chunk")} shed${lost ? `, ${count(lost, "frame")} lost on the way in the last minute` : ""}`
      : "";
  }

  /** The legend of the trust map is outside the figures, under the picture. */
  #trust() {
    const shares = this.latest?.trust ?? {};
    for (const item of document.querySelectorAll("[data-share]")) {
      const share = shares[item.dataset.share];
      item.querySelector("b").textContent = share === undefined ? "" : percent(share);
    }
  }

  #text(name, value, small) {
    const figure = this.root.querySelector(`[data-figure="${name}"]`);
    figure.querySelector("b").textContent = value;
    figure.querySelector("small").textContent = small;
  }

  #spark(name, lines, least) {
    sparkline(this.root.querySelector(`[data-figure="${name}"] .spark`), lines, least);
  }
}

function stageBar(stage, ms) {
  const bar = Object.assign(document.createElement("span"), { title: `${stage}: ${ms.toFixed(0)} ms` });
  bar.style.flexGrow = ms;
  bar.dataset.stage = stage;
  bar.append(word("b", stage), word("small", ms.toFixed(0)));
  return bar;
}

function word(tag, textContent) {
  return Object.assign(document.createElement(tag), { textContent });
}

/** A share in [0, 1] as a percentage; what is there, however little, is not called none. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function count(n, what) {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

function describe({ chunk, rung, guided, latency_ms: latency, residual, psnr, lost }) {
  const words = [RUNGS[rung] ?? rung, guided && "guided", `${Math.round(latency)} ms`];
  if (residual !== null) words.push(`residual ${residual}`);
  if (lost) words.push(`${count(lost, "frame")} lost on the way`);
  if (psnr !== undefined) words.push(`${psnr} dB`);
  return `chunk ${chunk}: ${words.filter(Boolean).join(", ")}`;
}
