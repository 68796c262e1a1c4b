/** The states of the page in words. Pure. */

/** Text for the pill in the header and for the picture while it waits: `{pill, wait}`; no `wait` when pictures move. */
export function describeState(state, { reason, seconds, refused, lost, resumed, problem } = {}) {
  const words = {
    idle: { pill: "Ready" },
    opening: { pill: "Opening the source", wait: "Opening the source…" },
    warming: { pill: "Model is warming up", wait: `${sentence({ message: reason })} This page goes on by itself when one is.` },
    connecting: { pill: "Connecting", wait: "Connecting to the server…" },
    resuming: { pill: "Reconnecting", wait: "Reconnecting: the stream goes on where it was…" },
    connected: resumed
      ? { pill: "Connected again", wait: "Connected again. The stream goes on with its next chunk." }
      : { pill: "Filling the first chunk", wait: "Connected. The first frames come back when a chunk is filled and restored." },
    streaming: { pill: "Restoring" },
    passthrough: { pill: "Passed through, not restored" },
    waiting: refused
      ? { pill: `Server is full: again in ${seconds} s`, wait: `${sentence(problem)} Trying again in ${seconds} s.` }
      : { pill: `Reconnecting in ${seconds} s`, wait: `${sentence(problem)} ${lost ? "The server keeps the stream for a few seconds. " : ""}Trying again in ${seconds} s.` },
    failed: { pill: "Stopped by an error" },
  };
  return words[state];
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
