/** One session: a peer connection to the server, from offer to DELETE. Knows no page, and never tries twice. */

import { here } from "./api.js";
import { FPS } from "./pace.js";

const GATHER_MS = 2000;
const CONNECT_MS = 15000;
const FLICKER_MS = 1000; // "disconnected", which comes after five silent seconds, for longer is dead: the server waits ten
const LOOK_MS = 500;
const QUIET_LOOKS = 5; // looks in a row at which nothing has come: a server reports every 1.5 s or sooner, whatever its device does

/** Why a session is over: `retryable` when opening another one may help, `resumable` when the server still keeps it. */
export class SessionEnd extends Error {
  constructor(message, { retryable = true, resumable = false } = {}) {
    super(message);
    Object.assign(this, { retryable, resumable });
  }
}

export class Session {
  /** `onReport(report)` gets each chunk's report, `onStream(stream)` the restored video, which sound may join. */
  constructor({ onReport, onStream, server = here }) {
    this.server = server;
    this.id = null;
    this.pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    this.over = false;
    this.ended = new Promise((resolve) => (this.end = (reason) => { this.over = true; resolve(reason); }));
    this.keep(0);
    const back = new MediaStream();
    this.pc.addEventListener("track", ({ track }) => {
      back.addTrack(track);
      if (track.kind === "video") onStream(back);
    });
    this.channel = this.pc.createDataChannel("report");
    this.channel.addEventListener("message", ({ data }) => this.#receive(JSON.parse(data), onReport));
    this.#watch();
  }

  /**
   * Connects `stream`'s video, and its sound if it has any; `request` is the body of POST /sessions without the SDP,
   * with `resume` for a session that lost its connection. Throws ServerError.
   */
  async open(stream, request, signal) {
    this.pc.setConfiguration({ ...this.pc.getConfiguration(), iceServers: await this.server.getIceServers(signal) });
    this.#send(stream, request.size ?? shapeOf(stream));
    await this.pc.setLocalDescription();
    await gathered(this.pc);
    const { sdp, type } = this.pc.localDescription;
    const answer = await this.server.openSession({ ...request, sdp, type }, signal);
    this.id = answer.id;
    await this.pc.setRemoteDescription({ type: answer.type, sdp: answer.sdp });
    await keepResolution(this.sender);
    await this.#connected(signal);
    this.#listen();
  }

  /** Puts another video in the place of the one that is sent. */
  replace(stream) {
    return this.sender.replaceTrack(inMotion(stream));
  }

  /** Changes the operator or solver settings; answers the chunk from which they apply. */
  async change(what) {
    return (await this.server.patchSession(this.id, what)).applies_from_chunk;
  }

  stats() {
    return this.pc.getStats();
  }

  /** Ends the session here and on the server. Safe in every state, also while the page goes away. */
  close(reason = new SessionEnd("Stopped.", { retryable: false })) {
    clearTimeout(this.flicker);
    this.end(reason);
    const id = this.id;
    this.id = null;
    if (this.deleting) return;
    if (!id) return this.pc.close();
    // In this order: a closed connection ends the session too, and then there is nothing left to be deleted.
    this.deleting = true;
    this.server.deleteSession(id)
      .catch((error) => console.info(`DELETE /sessions did not arrive: ${error.message}`))
      .finally(() => this.pc.close());
  }

  /** Waits for the server's word that this session should move; after `seconds`, if it has said so already. */
  keep(seconds) {
    const asked = this.asked;
    this.draining = asked ? after(1000 * seconds) : new Promise((resolve) => (this.move = resolve));
  }

  /** Resolves once a restored picture has been decoded, or the session is over. */
  async pictured() {
    while (!this.over && !decoded(await this.pc.getStats())) await after(LOOK_MS / 10);
  }

  /** Lets go of the connection; the server keeps the session for a while. */
  abandon() {
    this.id = null;
    this.close();
  }

  #send(stream, size) {
    const track = inMotion(stream);
    const encoding = { maxBitrate: bitrate(size), maxFramerate: 30 };
    const transceiver = this.pc.addTransceiver(track, { direction: "sendrecv", streams: [stream], sendEncodings: [encoding] });
    this.sender = transceiver.sender;
    preferVp8(transceiver);
    for (const sound of stream.getAudioTracks()) this.pc.addTransceiver(sound, { direction: "sendrecv", streams: [stream] });
  }

  #receive(message, onReport) {
    const { event, reason } = message;
    if (event === "closing") {
      this.id = null; // nothing is left to be deleted
      this.end(new SessionEnd(`The server closes the session: ${reason}.`));
    } else if (event === "draining") {
      this.asked = true;
      this.move();
    } else if ("chunk" in message) onReport(message);
  }

  #watch() {
    const { pc } = this;
    pc.addEventListener("connectionstatechange", () => {
      clearTimeout(this.flicker);
      if (pc.connectionState === "disconnected") this.flicker = setTimeout(() => this.#lose(), FLICKER_MS);
      if (pc.connectionState === "failed") this.#lose();
    });
    this.channel.addEventListener("close", () => {
      this.id = null;
      this.end(new SessionEnd("The server ended the session."));
    });
  }

  #lose() {
    this.end(new SessionEnd("The connection was lost.", { resumable: true }));
  }

  /** Ends the connection when nothing comes any more, long before the browser does. Looks are counted, so a page that slept is not taken in. */
  async #listen() {
    const silence = new Silence();
    while (!this.over) {
      await after(LOOK_MS);
      if (silence.look(received(await this.pc.getStats()))) this.#lose();
    }
  }

  async #connected(signal) {
    const states = changes(this.pc, "connectionstatechange", () => this.pc.connectionState === "connected");
    const late = after(CONNECT_MS).then(() => {
      throw new SessionEnd(`No connection within 15 s. ${stuckAt(this.pc)}`);
    });
    const over = this.ended.then((reason) => { throw reason; });
    const aborted = changes(signal, "abort", () => signal.aborted).then(() => signal.throwIfAborted());
    await Promise.race([states, late, over, aborted]);
  }
}

/** Which step of a connection fails, and what helps. Pure. */
export function stuckAt({ iceGatheringState, iceConnectionState }) {
  if (iceGatheringState === "new") return "This browser gathered no address (ICE): an extension or a policy may forbid WebRTC.";
  if (["connected", "completed"].includes(iceConnectionState)) return "A way over UDP was found (ICE), and the encryption (DTLS) did not begin on it: try again, or another network.";
  return "No way over UDP was found (ICE): a firewall may block it. Another network helps, or a TURN server (--ice-servers).";
}

/** Counts looks at which nothing new has come. Pure. */
export class Silence {
  constructor() {
    Object.assign(this, { bytes: null, quiet: 0 });
  }

  /** Whether so many looks in a row found the same number of `bytes`; null, where a browser tells none, is no silence. */
  look(bytes) {
    this.quiet = bytes !== null && bytes === this.bytes ? this.quiet + 1 : 0;
    this.bytes = bytes;
    return this.quiet >= QUIET_LOOKS;
  }
}

/** Bytes that came over the connection, of media and of reports about it; null where the browser does not count them. */
export function received(stats) {
  const pairs = [...stats.values()].filter(({ type, bytesReceived }) => type === "candidate-pair" && bytesReceived !== undefined);
  return pairs.length ? pairs.reduce((sum, { bytesReceived }) => sum + bytesReceived, 0) : null;
}

/** Whether a picture of the video that came has been decoded. */
function decoded(stats) {
  return [...stats.values()].some(({ type, kind, framesDecoded }) => type === "inbound-rtp" && kind === "video" && framesDecoded > 0);
}

/** Bits a second that keep the codec from hiding the restoration, for a picture of `size` ("416x240"). */
export function bitrate(size) {
  const [width, height] = size.split("x").map(Number);
  return Math.min(4_000_000, Math.max(800_000, Math.round(width * height * FPS * 0.5)));
}

/** The size of a stream's pictures, for its bit rate where the server chooses the size. */
function shapeOf(stream) {
  const { width = 416, height = 240 } = stream.getVideoTracks()[0].getSettings();
  return `${width}x${height}`;
}

/** The video of `stream`, marked so that a shared screen does not drop to a few frames a second. */
function inMotion(stream) {
  const [track] = stream.getVideoTracks();
  track.contentHint = "motion";
  return track;
}

function preferVp8(transceiver) {
  const { codecs } = RTCRtpReceiver.getCapabilities("video");
  const rank = ({ mimeType }) => (mimeType === "video/VP8" ? 0 : mimeType === "video/rtx" ? 2 : 1);
  transceiver.setCodecPreferences?.(codecs.toSorted((a, b) => rank(a) - rank(b)));
}

/** A browser short of bandwidth should send coarser pictures, not smaller ones. */
async function keepResolution(sender) {
  const parameters = sender.getParameters();
  parameters.degradationPreference = "maintain-resolution";
  try {
    await sender.setParameters(parameters);
  } catch (error) {
    console.info(`degradationPreference is not supported here: ${error.message}`);
  }
}

/** All candidates of this side, or those of the first two seconds: the server takes no later ones. */
export async function gathered(pc) {
  const complete = changes(pc, "icegatheringstatechange", () => pc.iceGatheringState === "complete");
  await Promise.race([complete, after(GATHER_MS)]);
}

function changes(target, event, done) {
  return new Promise((resolve) => {
    const look = () => done() && (target.removeEventListener(event, look), resolve());
    target.addEventListener(event, look);
    look();
  });
}

function after(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
