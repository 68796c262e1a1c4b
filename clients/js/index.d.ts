export interface Operator {
  kind: string;
  [parameter: string]: unknown;
}

export interface Options {
  /** Address of the server, as in "https://avis.example"; left out, it is where the page came from. */
  url?: string;
  /** Shown to a server that asks for a token. */
  token?: string | null;
  /** What is wrong with the picture: a kind, or an object with its parameters. */
  operator?: string | Operator;
  mode?: "incoming" | "simulate";
  /** WIDTHxHEIGHT of the restored picture; left out, the server chooses. */
  size?: string;
  fps?: number;
  /** low restores 4 frames at a time, not 12: sooner, and a little less well. */
  latency?: "normal" | "low";
  solver?: Record<string, unknown>;
  /** Pictures of the same frame, side by side. */
  panels?: ("original" | "degraded" | "x_init" | "restored" | "trust")[];
  seed?: number;
}

/** What the data channel says of a chunk: GET /channel.json of the server has its schema. */
export interface Report {
  chunk: number;
  rung: string;
  residual: number | null;
  /** Change from frame to frame over that of the original, or of the start; absent where that stands still. */
  flicker?: number;
  frames: number;
  lost: number;
  latency_ms?: number;
  ms: Record<string, number>;
  [more: string]: unknown;
}

export interface State {
  name: "warming" | "connecting" | "resuming" | "connected" | "waiting" | "failed";
  [detail: string]: unknown;
}

export class ServerError extends Error {
  /** 0 where no answer came. */
  readonly status: number;
  readonly code: string;
  readonly retryable: boolean;
  readonly retryAfter: number | null;
}

export class SessionEnd extends Error {
  readonly retryable: boolean;
  readonly resumable: boolean;
}

export class Restored extends EventTarget {
  private constructor();
  /** Holds the restored track, also when another connection has brought another one. */
  readonly stream: MediaStream;
  readonly track: MediaStreamTrack | null;
  /** Resolves with the error that ended it, or null when it was stopped. */
  readonly ended: Promise<Error | null>;
  /** Resolves with the number of the first chunk with the change. */
  change(what: { operator?: string | Operator; solver?: Record<string, unknown> }): Promise<number>;
  replace(track: MediaStreamTrack): Promise<void>;
  stop(): void;
  addEventListener(type: "report", listener: (event: CustomEvent<Report>) => void): void;
  addEventListener(type: "state", listener: (event: CustomEvent<State>) => void): void;
  addEventListener(type: "track", listener: (event: CustomEvent<MediaStreamTrack>) => void): void;
}

export function restore(track: MediaStreamTrack, options?: Options): Promise<Restored>;
