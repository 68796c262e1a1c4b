/** Plays a stream that somebody publishes to this server, by its name (WHEP). Knows nothing of the page's own session. */

import { here, ServerError } from "./api.js";
import { gathered } from "./session.js";
import { sentence } from "./status.js";

const $ = (selector) => document.querySelector(selector);
const FLICKER_MS = 3000; // a connection that is "disconnected" for longer does not come back

export class Watch {
  constructor() {
    this.pc = null;
    $("#watch-toggle").addEventListener("click", () => (this.pc ? this.stop("") : this.play()));
    $("#watch-name").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // the form around it is never sent
      this.play();
    });
  }

  /** Plays the stream whose name stands in the field, in place of one that plays. */
  async play() {
    const field = $("#watch-name");
    if (!field.reportValidity()) return;
    this.stop(`Waiting for ${field.value}.`);
    const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    this.pc = pc;
    this.#describe();
    try {
      await this.#connect(pc, field.value);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      if (this.pc === pc) this.stop(sentence(error));
    }
  }

  /** Ends what plays, here and on the server; `words` say why. Safe in every state. */
  stop(words) {
    const { pc, location } = this;
    Object.assign(this, { pc: null, location: null });
    if (location) this.#leave(pc, location);
    else pc?.close();
    $("#watched").srcObject = null;
    $("#watch-text").textContent = words;
    this.#describe();
  }

  async #connect(pc, name) {
    const stream = new MediaStream();
    pc.addEventListener("track", ({ track }) => stream.addTrack(track));
    pc.addEventListener("connectionstatechange", () => {
      if (["failed", "closed"].includes(pc.connectionState)) this.#lose(pc, name);
      if (pc.connectionState === "disconnected") setTimeout(() => pc.connectionState !== "connected" && this.#lose(pc, name), FLICKER_MS);
    });
    pc.setConfiguration({ ...pc.getConfiguration(), iceServers: await here.getIceServers() });
    for (const kind of ["video", "audio"]) pc.addTransceiver(kind, { direction: "recvonly" });
    await pc.setLocalDescription();
    await gathered(pc);
    if (pc !== this.pc) return;
    const { sdp, location } = await here.joinPlayer(name, pc.localDescription.sdp);
    if (pc !== this.pc) return this.#leave(pc, location);
    this.location = location;
    await pc.setRemoteDescription({ type: "answer", sdp });
    const video = $("#watched");
    video.srcObject = stream;
    $("#watch-text").textContent = "";
    this.#describe();
    video.scrollIntoView({ block: "nearest" });
    video.play().catch((error) => console.info(`The stream does not play by itself: ${error.message}`)); // autoplay waits until a video is seen
  }

  /** The server has ended this player, or will: it cannot reach it any more either. */
  #lose(pc, name) {
    if (pc !== this.pc) return;
    this.location = null;
    this.stop(`${name} ended.`);
  }

  /** In this order: a closed connection ends the player too, and then there is nothing left to be deleted. */
  #leave(pc, location) {
    here.leavePlayer(location)
      .catch((error) => console.info(`DELETE ${location} did not arrive: ${error.message}`))
      .finally(() => pc.close());
  }

  #describe() {
    $("#watch-toggle").textContent = this.pc ? "Stop watching" : "Watch";
    $("#watched").hidden = !$("#watched").srcObject;
  }
}
