/** HTTP to the server; its error JSON becomes one exception. Knows no page and no WebRTC. */

export class ServerError extends Error {
  /** `status` 0 means that no answer came. `retryAfter` in seconds, or null; `queue` is the place in line, or null. */
  constructor(status, { code = "unknown", message, retryable = false }, retryAfter = null, queue = null) {
    super(message);
    Object.assign(this, { name: "ServerError", status, code, retryable, retryAfter, queue });
  }
}

let token = null;

/** Shows `given` with every request, to a server that asks for one. */
export const showToken = (given) => (token = given);

export const getModels = () => call("GET", "/models");
export const getOperators = () => call("GET", "/operators");
export const getIceServers = async (signal) => (await call("GET", "/ice", { signal })).iceServers;
export const openSession = (offer, signal) => call("POST", "/sessions", { body: offer, signal });
export const patchSession = (id, change) => call("PATCH", `/sessions/${id}`, { body: change });

/** Ends a session even while the page goes away. */
export const deleteSession = (id) => fetch(`/sessions/${id}`, { method: "DELETE", keepalive: true, headers: headers() });

/** Gives up a place in line, even while the page goes away. */
export const leaveLine = (ticket) => fetch(`/queue/${ticket}`, { method: "DELETE", keepalive: true, headers: headers() });

/** Resolves when a model is warm; throws a retryable ServerError with the reason while none is. */
export const askReady = (signal) => call("GET", "/readyz", { signal });

async function call(method, path, { body, signal } = {}) {
  const response = await reach(path, {
    method,
    signal,
    headers: headers(body),
    body: body && JSON.stringify(body),
  });
  const answer = await readJson(response);
  if (response.ok) return answer;
  const error = answer?.error ?? { message: `The server answered ${response.status} to ${method} ${path}.` };
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  throw new ServerError(response.status, error, Number.isFinite(wait) ? wait : null, answer?.queue);
}

function headers(body) {
  return { ...(token && { Authorization: `Bearer ${token}` }), ...(body && { "Content-Type": "application/json" }) };
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
