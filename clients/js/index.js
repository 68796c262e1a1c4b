/** Restores live video. What it does with the server is what the server's own page does: the modules in lib are the page's. */

import { Server, ServerError } from "./lib/api.js";
import { Keeper } from "./lib/keeper.js";
import { SessionEnd } from "./lib/session.js";

export { ServerError, SessionEnd };

/**
 * Sends `track` to the server and resolves with what comes back, a `Restored`, once it has a track. Waits for a place at a full
 * server. Throws ServerError or SessionEnd where trying again would not help.
 */
export function restore(track, { url = "", token = null, operator = "super_resolution", ...more } = {}) {
  const restored = new Restored(track, new Server(url, token), { panels: ["restored"], ...more, operator: named(operator) });
  return restored.opened;
}

/** A restored track. Events: `report`, `state`, `track` (another connection brought another track); each has a `detail`. */
export class Restored extends EventTarget {
  #keeper;
  #request;
  #run;

  constructor(track, server, request) {
    super();
    this.#request = request;
    /** holds the restored track, also when another takes its place */
    this.stream = new MediaStream();
    this.#keeper = new Keeper(
      {
        onReport: (report) => this.#tell("report", report),
        onState: (name, detail) => this.#onState(name, detail),
        onStream: (stream) => this.#take(stream),
        awake: async () => {},
      },
      server,
    );
    this.opened = new Promise((resolve, reject) => {
      this.addEventListener("track", () => resolve(this), { once: true });
      this.fail = reject;
    });
    /** resolves with the error that ended it, or null when it was stopped */
    this.ended = new Promise((resolve) => (this.end = resolve));
    this.#run = this.#keeper.run({ stream: new MediaStream([track]) }, () => this.#request);
    this.#run.catch((error) => this.#fail(error));
    track.addEventListener("ended", () => this.stop(), { once: true });
  }

  /** The restored track. */
  get track() {
    return this.stream.getVideoTracks()[0] ?? null;
  }

  /** Changes `operator` or `solver`; resolves with the number of the first chunk with it. */
  async change({ operator, solver }) {
    const what = { ...(operator && { operator: named(operator) }), ...(solver && { solver }) };
    const { session } = this.#keeper;
    const chunk = session ? await session.change(what) : 0;
    this.#request = { ...this.#request, ...what, solver: { ...this.#request.solver, ...solver } };
    return chunk;
  }

  /** Sends another track in the same session. */
  replace(track) {
    return this.#keeper.replace({ stream: new MediaStream([track]) });
  }

  stop() {
    this.#keeper.stop();
    for (const track of this.stream.getTracks()) track.stop();
    this.fail(new SessionEnd("Stopped.", { retryable: false }));
    this.end(null);
  }

  #take(stream) {
    for (const old of this.stream.getTracks()) this.stream.removeTrack(old);
    for (const track of stream.getTracks()) this.stream.addTrack(track);
    this.#tell("track", this.track);
  }

  #onState(name, detail) {
    this.#tell("state", { name, ...detail });
    if (name === "failed") this.#fail(detail.problem);
  }

  #fail(error) {
    this.fail(error);
    this.end(error);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** An operator by its kind, or as an object with its parameters. */
function named(operator) {
  return typeof operator === "string" ? { kind: operator } : operator;
}
