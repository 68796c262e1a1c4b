/** Keeps a session open: waits for a warm model, counts refusals down, resumes or opens anew with back-off. Knows no page. */

import { here, ServerError } from "./api.js";
import { Session, SessionEnd } from "./session.js";

const LONGEST_WAIT = 15;
const PROVEN = 20; // seconds a session has to live for its end to count as the first
const MOVE_AGAIN = 3; // seconds after which a session that could not leave a draining server tries again
const SOONER = 2; // a session that the server still keeps is dialled again after a quarter of the wait: 2 ** -SOONER

/** Seconds before the `attempt`-th try in a row (0, 1, 2, …): 1, 2, 4, … with up to a quarter of it added by `luck` in [0, 1). */
export function backoff(attempt, luck) {
  return Math.min(LONGEST_WAIT, 2 ** attempt) * (1 + luck / 4);
}

export class Keeper {
  /**
   * `events`: onState(name, detail), onReport, onStream, and `awake()`, a promise for the moment when somebody looks.
   * States: warming, connecting, resuming, connected (detail has `resumed`), waiting (detail has `seconds`, `refused`,
   * `lost`), failed.
   */
  constructor(events, server = here) {
    this.events = events;
    this.server = server;
    this.session = null;
    this.lost = null; // a session without a connection, which the server still keeps
    this.ticket = null; // the place in line before a full server, which forgets it by itself
    this.abort = null;
  }

  /** Runs until `stop` or an error that trying again cannot mend. `request()` gives the body of POST /sessions. */
  async run(source, request) {
    this.#end(); // a place in line is kept
    this.source = source;
    const { signal } = (this.abort = new AbortController());
    for (let attempt = 0; !signal.aborted; attempt++) {
      const began = performance.now();
      const problem = await this.#once(request, signal);
      if (signal.aborted) return;
      if (!problem.retryable) return this.events.onState("failed", { problem });
      if (performance.now() - began > 1000 * PROVEN) attempt = 0;
      await this.#wait(problem, attempt, signal);
      if (!this.lost) await this.events.awake();
    }
  }

  /** Sends another source; the session stays. */
  async replace(source) {
    this.source = source;
    await this.session?.replace(source.stream);
  }

  stop() {
    this.#end();
    if (this.ticket) this.server.leaveLine(this.ticket).catch((error) => console.info(`DELETE /queue did not arrive: ${error.message}`));
    this.ticket = null;
  }

  #end() {
    this.abort?.abort();
    this.session?.close();
    this.lost?.close();
    this.session = this.lost = null;
  }

  /** One connection from start to end; answers why it ended. */
  async #once(request, signal) {
    const { onReport, onStream } = this.events;
    let session = (this.session = new Session({ onReport, onStream, server: this.server }));
    let problem;
    try {
      await (this.lost ? this.#resume(session, request(), signal) : this.#open(session, request, signal));
      while (!(problem = await Promise.race([session.ended, session.draining]))) session = await this.#move(session, request(), signal);
    } catch (error) {
      if (!isExpected(error, signal)) throw error;
      problem = error;
    } finally {
      if (this.session === session) this.session = null;
      if (problem?.resumable && session.id && !signal.aborted) this.#lose(session);
      else session.close();
    }
    return problem;
  }

  /** Keeps `session`, or none, as the one to go on with. */
  #lose(session) {
    this.lost?.abandon();
    this.lost = session;
  }

  async #open(session, request, signal) {
    const { onState } = this.events;
    await ready(this.server, signal, onState);
    onState("connecting", {});
    try {
      await session.open(this.source.stream, { ...request(), queue: true, ...(this.ticket && { ticket: this.ticket }) }, signal);
    } catch (error) {
      this.ticket = error.queue?.ticket ?? this.ticket;
      throw error;
    }
    this.ticket = null;
    onState("connected", { resumed: false });
  }

  /** Goes on with the lost session over `session`. What was changed meanwhile is told; one that is gone is opened anew. */
  async #resume(session, request, signal) {
    const { lost, events } = this;
    events.onState("resuming", {});
    try {
      await session.open(this.source.stream, { ...request, resume: lost.id }, signal);
      await tell(session, { operator: request.operator, solver: request.solver }, signal);
    } catch (error) {
      if (error.status !== 404) throw error;
      this.#lose(null);
      throw new SessionEnd("The server has not kept the session.");
    }
    this.#lose(null); // only now: a connection that closes ends its session, unless another has taken its place
    events.onState("connected", { resumed: true });
  }

  /**
   * The server drains: dials anew while `session` still runs, and leaves it when the new picture is there, so that none
   * stands still. Answers the session that goes on: the old one where there is no place yet.
   */
  async #move(session, request, signal) {
    const { onReport, onStream } = this.events;
    let stream;
    const next = new Session({ server: this.server, onReport: (report) => next === this.session && onReport(report), onStream: (came) => (stream = came) });
    try {
      await next.open(this.source.stream, { ...request, resume: session.id }, signal);
      await next.pictured();
    } catch (error) {
      next.close();
      if (!isExpected(error, signal)) throw error;
      session.keep(error.retryAfter ?? MOVE_AGAIN);
      return session;
    }
    this.session = next;
    if (stream) onStream(stream);
    if (next.id === session.id) session.abandon();
    else session.close();
    return next;
  }

  async #wait(problem, attempt, signal) {
    const wait = backoff(attempt - (this.lost ? SOONER : 0), Math.random());
    const until = performance.now() + 1000 * (problem.retryAfter ?? wait);
    while (!signal.aborted) {
      const seconds = Math.ceil((until - performance.now()) / 1000);
      if (seconds <= 0) return;
      this.events.onState("waiting", { problem, seconds, refused: problem.status === 503, lost: this.lost !== null });
      await pause(Math.min(1000, until - performance.now()), signal);
    }
  }
}

/** Changes a session, later if it may not change right now: its stream is worth more than a second. Throws ServerError. */
export async function tell(session, what, signal) {
  while (true) {
    try {
      return await session.change(what);
    } catch (error) {
      if (error.status !== 429 || signal.aborted) throw error;
      await pause(1000 * (error.retryAfter ?? 1), signal);
    }
  }
}

function isExpected(error, signal) {
  return signal.aborted || error instanceof ServerError || error instanceof SessionEnd;
}

/** Waits until the server says that a model is warm. */
async function ready(server, signal, onState) {
  while (true) {
    try {
      return await server.askReady(signal);
    } catch (error) {
      if (!(error instanceof ServerError) || error.status !== 503) throw error;
      onState("warming", { reason: error.message });
      await pause(1000 * Math.min(error.retryAfter ?? 1, 2), signal);
    }
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
