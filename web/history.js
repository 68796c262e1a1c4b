/** What happened in the last minute, as numbers. Pure: time is an argument. */

export class History {
  constructor(seconds = 60) {
    this.span = seconds;
    this.points = [];
  }

  /** Adds `values` at `now` seconds and forgets what is older than the span. */
  push(now, values) {
    this.points.push({ at: now, ...values });
    this.points = this.points.filter(({ at }) => at > now - this.span);
  }

  /** `[age, value]` of every point that has `key`, oldest first; age in [0, 1], 1 is now. */
  series(key, now) {
    return this.points
      .filter((p) => Number.isFinite(p[key]))
      .map((p) => [1 - (now - p.at) / this.span, p[key]]);
  }

  last(key) {
    return this.points.findLast((p) => Number.isFinite(p[key]))?.[key] ?? null;
  }

  sum(key) {
    return this.points.reduce((total, p) => total + (p[key] ?? 0), 0);
  }
}

/** What the browser's own statistics say: frames a second both ways, jitter buffer and round trip in ms, freezes. Pure. */
export function readStats(reports, before) {
  const all = [...reports.values()];
  const inbound = all.find((r) => r.type === "inbound-rtp" && r.kind === "video") ?? {};
  const outbound = all.find((r) => r.type === "outbound-rtp" && r.kind === "video") ?? {};
  const pair = all.find((r) => r.type === "candidate-pair" && r.nominated && r.state === "succeeded") ?? {};
  const counted = {
    at: inbound.timestamp ?? outbound.timestamp ?? 0,
    sent: outbound.framesEncoded ?? 0,
    shown: inbound.framesDecoded ?? 0,
    bytes: inbound.bytesReceived ?? 0,
    held: inbound.jitterBufferDelay ?? 0,
    emitted: inbound.jitterBufferEmittedCount ?? 0,
  };
  const rtt = (pair.currentRoundTripTime ?? 0) * 1000;
  return { counted, freezes: inbound.freezeCount ?? 0, rtt, ...rates(counted, before?.counted) };
}

function rates(now, before) {
  const seconds = before ? (now.at - before.at) / 1000 : 0;
  if (seconds <= 0) return { sentFps: null, shownFps: null, kbit: null, jitter: null };
  const emitted = now.emitted - before.emitted;
  return {
    sentFps: (now.sent - before.sent) / seconds,
    shownFps: (now.shown - before.shown) / seconds,
    kbit: ((now.bytes - before.bytes) * 8) / 1000 / seconds,
    jitter: emitted > 0 ? (1000 * (now.held - before.held)) / emitted : null,
  };
}
