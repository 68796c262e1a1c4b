/** The states of the page in words. Pure. */

const SIMPLER = ["one_step", "x_init"];
const SLOW = "The device is too slow for full quality at the moment. A smaller size needs less of it.";

/**
 * Text for the pill in the header, which is read out and so counts no seconds, and for the picture while it waits:
 * `{pill, wait, why}`; no `wait` when pictures move, `why` where they are not what they could be.
 */
export function describeState(state, { reason, seconds, refused, lost, resumed, problem, rung } = {}) {
  const words = {
    idle: { pill: "Ready" },
    opening: { pill: "Opening the source", wait: "Opening the source…" },
    warming: { pill: "Model is warming up", wait: `${sentence({ message: reason })} This page goes on by itself when one is.` },
    connecting: { pill: "Connecting", wait: "Connecting to the server…" },
    resuming: { pill: "Reconnecting", wait: "Reconnecting: the stream goes on where it was…" },
    connected: resumed
      ? { pill: "Connected again", wait: "Connected again. The stream goes on with its next chunk." }
      : { pill: "Filling the first chunk", wait: "Connected. The first frames come back when a chunk is filled and restored." },
    streaming: SIMPLER.includes(rung) ? { pill: "Restoring, simplified", why: SLOW } : { pill: "Restoring" },
    passthrough: { pill: "Passed through, not restored", why: SLOW },
    waiting: refused
      ? { pill: "Server is full", wait: `${full(problem)} Trying again in ${seconds} s.` }
      : { pill: "No connection", wait: `${sentence(problem)} ${lost && problem?.code !== "unreachable" ? "The server keeps the stream for a few seconds. " : ""}Trying again in ${seconds} s.` },
    failed: { pill: "Stopped by an error" },
  };
  return words[state];
}

/** Whoever is not the next cares for the others in line, not for why the first of them waits. */
function full({ message, queue }) {
  if (!queue) return sentence({ message });
  return queue.position > 1 ? `The server is full. You are number ${queue.position} in line.` : `${sentence({ message })} You are the next in line.`;
}

/** What a person can do about an error of the server, by its status. */
export function advice({ status, code }) {
  if (status === 401) return "Open this page with the server's token at the end of its address: #token=…";
  if (status === 422 || status === 400) return "Change the settings in the panel, then start again.";
  if (status === 404) return "The session is gone: start again.";
  if (status === 413) return "Choose a smaller size.";
  if (code === "unreachable") return "Check that the server runs.";
  return "Start again; if it stays, the server's log says more.";
}

export function sentence(problem) {
  const text = (problem?.message ?? "The session ended").trim().replace(/^./, (c) => c.toUpperCase());
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
