/** HTTP to the server; its error JSON becomes one exception. Knows no page and no WebRTC. */

export class ServerError extends Error {
  /** `status` 0 means that no answer came. `retryAfter` in seconds, or null; `queue` is the place in line, or null. */
  constructor(status, { code = "unknown", message, retryable = false }, retryAfter = null, queue = null) {
    super(message);
    Object.assign(this, { name: "ServerError", status, code, retryable, retryAfter, queue });
  }
}

/** One server. `base` is its address, empty for the one that the page came from; `token` is shown where it asks for one. */
export class Server {
  constructor(base = "", token = null) {
    Object.assign(this, { base: base.replace(/\/$/, ""), token });
  }

  getModels() {
    return this.#call("GET", "/models");
  }

  getOperators() {
    return this.#call("GET", "/operators");
  }

  async getIceServers(signal) {
    return (await this.#call("GET", "/ice", { signal })).iceServers;
  }

  openSession(offer, signal) {
    return this.#call("POST", "/sessions", { body: offer, signal });
  }

  patchSession(id, change) {
    return this.#call("PATCH", `/sessions/${id}`, { body: change });
  }

  /** Ends a session even while the page goes away. */
  deleteSession(id) {
    return this.#leave(`/sessions/${id}`);
  }

  /** One more player of a published stream: the answer to its offer, and where the player is. */
  async joinPlayer(name, sdp) {
    const path = `/whep/${encodeURIComponent(name)}`;
    const headers = { ...this.#headers(), "Content-Type": "application/sdp" };
    const response = await reach(this.base + path, { method: "POST", headers, body: sdp });
    if (!response.ok) throw refused(response, await readJson(response), `POST ${path}`);
    return { sdp: await response.text(), location: response.headers.get("Location") };
  }

  /** Ends a player even while the page goes away. */
  leavePlayer(location) {
    return this.#leave(location);
  }

  /** Gives up a place in line, even while the page goes away. */
  leaveLine(ticket) {
    return this.#leave(`/queue/${ticket}`);
  }

  /** Resolves when a model is warm; throws a retryable ServerError with the reason while none is. */
  askReady(signal) {
    return this.#call("GET", "/readyz", { signal });
  }

  #leave(path) {
    return fetch(this.base + path, { method: "DELETE", keepalive: true, headers: this.#headers() });
  }

  async #call(method, path, { body, signal } = {}) {
    const response = await reach(this.base + path, {
      method,
      signal,
      headers: this.#headers(body),
      body: body && JSON.stringify(body),
    });
    const answer = await readJson(response);
    if (response.ok) return answer;
    throw refused(response, answer, `${method} ${path}`);
  }

  #headers(body) {
    return { ...(this.token && { Authorization: `Bearer ${this.token}` }), ...(body && { "Content-Type": "application/json" }) };
  }
}

/** The server that the page came from. */
export const here = new Server();

function refused(response, answer, request) {
  const error = answer?.error ?? { message: `The server answered ${response.status} to ${request}.` };
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  return new ServerError(response.status, error, Number.isFinite(wait) ? wait : null, answer?.queue);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, { code: "unreachable", message: "The server does not answer.", retryable: true });
  }
}

async function readJson(response) {
  if (!response.headers.get("Content-Type")?.includes("json")) return null;
  return response.json();
}
