/** Where the video comes from: film, drawn scene, camera, file, screen, tab. Each gives a stream and a `stop`; knows no server. */

import { FPS } from "./pace.js";
import { Scene } from "./scene.js";

export const FILM = "film.webm";
const LARGEST = 1280; // pixels a side that are worth sending

/** What went wrong, in words for the person at the page. */
export class SourceError extends Error {}

/**
 * Opens a source: `{stream, stop, ended}`; `ended` resolves when it runs dry by itself.
 * `size` is {width, height} of the restored picture; `native` keeps the source's own pixels (cut to the same shape);
 * `sound` asks for the sound of a camera, a file or a tab too; `camera` and `microphone` are device ids, "" leaves the browser the choice.
 */
export async function openSource(kind, { size, native, file, sound, camera, microphone }) {
  if (kind === "scene") return openScene(size);
  if (kind === "film") return shaped(await openVideo(FILM, false, "The film of this page does not play in this browser."), size, native, true);
  if (kind === "camera") return shaped(await openCamera(size, sound, camera, microphone), size, native, false);
  if (kind === "screen") return shaped(await openScreen(), size, native, true);
  if (kind === "tab") return shaped(await openTab(sound), size, native, true);
  if (!file) throw new SourceError("Choose a video file first.");
  return shaped(await openFile(file, sound), size, native, true);
}

function openScene({ width, height }) {
  const scene = new Scene(width, height);
  return pump(width, height, (context, seconds) => scene.draw(context, seconds), () => {});
}

async function openCamera({ width, height }, sound, camera, microphone) {
  const wish = { ...(camera && { deviceId: { exact: camera } }), width: { ideal: width }, height: { ideal: height }, frameRate: { ideal: FPS } };
  const stream = await ask("camera", () => media().getUserMedia({ video: wish, audio: sound && (microphone ? { deviceId: { exact: microphone } } : true) }));
  return fromStream(stream);
}

async function openScreen() {
  return fromStream(await ask("screen", () => media().getDisplayMedia({ video: { frameRate: FPS }, audio: false })));
}

/** Another tab: the browser offers its tabs at once, and not this page, which would film what it shows. */
async function openTab(sound) {
  const video = { frameRate: FPS, displaySurface: "browser" };
  const audio = sound && { suppressLocalAudioPlayback: true }; // it is heard from here, as late as the picture
  const wish = { video, audio, selfBrowserSurface: "exclude", monitorTypeSurfaces: "exclude", surfaceSwitching: "include" };
  return fromStream(await ask("tab", () => media().getDisplayMedia(wish)));
}

function media() {
  if (navigator.mediaDevices) return navigator.mediaDevices;
  throw new SourceError("The browser gives a page the camera only over https:// or on localhost. The film, the drawn scene and files work here too.");
}

async function ask(what, open) {
  try {
    return await open();
  } catch (error) {
    if (error instanceof SourceError) throw error;
    throw new SourceError(refusal(what, error));
  }
}

function refusal(what, error) {
  const reasons = {
    NotAllowedError: `The browser did not allow the ${what}. Allow it in the address bar, then try again.`,
    NotFoundError: `There is no ${what} on this machine.`,
    OverconstrainedError: `The chosen ${what} is not there any more. Choose another one in the panel.`,
    NotReadableError: `Another program uses the ${what}. Close it there, then try again.`,
  };
  return reasons[error.name] ?? `The ${what} did not open: ${error.message}.`;
}

async function fromStream(stream) {
  const video = player();
  video.srcObject = stream;
  await started(video, "The picture did not start.");
  const [track] = stream.getVideoTracks();
  const ended = new Promise((resolve) => track.addEventListener("ended", resolve, { once: true }));
  return { video, stream, sound: stream.getAudioTracks(), ended, stop: () => stream.getTracks().forEach((t) => t.stop()) };
}

async function openFile(file, sound) {
  const sentence = `This browser cannot play ${file.name}: expected a video such as MP4 (H.264) or WebM.`;
  return openVideo(URL.createObjectURL(file), sound, sentence);
}

/** Plays the video at `url` again and again; `sentence` says why it does not. */
async function openVideo(url, sound, sentence) {
  const video = player();
  video.loop = true;
  video.src = url;
  const stop = () => {
    video.pause();
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(url);
  };
  await started(video, sentence);
  return { video, sound: sound ? soundTracks(video) : [], stop, ended: new Promise(() => {}) };
}

/** The sound of a video that plays, which its being muted here does not touch; none where the browser gives none. */
function soundTracks(video) {
  const capture = video.captureStream ?? video.mozCaptureStream;
  return capture ? capture.call(video).getAudioTracks() : [];
}

function player() {
  return Object.assign(document.createElement("video"), { muted: true, playsInline: true });
}

async function started(video, sentence) {
  try {
    await video.play();
  } catch (error) {
    throw new SourceError(sentence, { cause: error });
  }
  if (!video.videoWidth) throw new SourceError(sentence);
}

/** The source as it is if it has the shape of `size`; otherwise cut to that shape on a canvas. */
function shaped(source, size, native, scaled) {
  const { video } = source;
  const same = Math.abs((video.videoWidth * size.height) / (video.videoHeight * size.width) - 1) < 0.02;
  if (source.stream && same && (native || !scaled)) return source;
  const cut = crop(video.videoWidth, video.videoHeight, size);
  const target = native ? even(cut) : size;
  const draw = (context) => {
    const now = crop(video.videoWidth || 1, video.videoHeight || 1, size); // a phone turned, a window resized
    context.drawImage(video, now.x, now.y, now.width, now.height, 0, 0, target.width, target.height);
  };
  const canvas = pump(target.width, target.height, draw, source.stop);
  for (const track of source.sound) canvas.stream.addTrack(track);
  return { ...canvas, ended: source.ended };
}

/** The largest centred cut of a `width` x `height` picture that has the shape of `size`. */
export function crop(width, height, size) {
  const scale = Math.min(width / size.width, height / size.height);
  const [w, h] = [size.width * scale, size.height * scale];
  return { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h };
}

/** Even numbers of pixels, as video codecs want, and not more than is worth sending. */
export function even({ width, height }) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  return { width: 2 * Math.round((width * scale) / 2), height: 2 * Math.round((height * scale) / 2) };
}

/** A canvas repainted `FPS` times a second, as a stream. */
function pump(width, height, draw, release) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { alpha: false });
  draw(context, 0);
  const stream = canvas.captureStream();
  const ticker = new Worker(new URL("ticker.js", import.meta.url));
  ticker.onmessage = ({ data: seconds }) => draw(context, seconds);
  ticker.postMessage(FPS);
  const stop = () => {
    ticker.terminate();
    stream.getTracks().forEach((track) => track.stop());
    release();
  };
  return { stream, stop, ended: new Promise(() => {}) };
}
