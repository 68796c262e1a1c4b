/** Cuts the panels out of one video frame and shows them: wipe, side by side, single; loupe and snapshot. Knows no server. */

const GAP = 6; // canvas pixels between pictures side by side
const CAPTION = 46; // canvas pixels under the pictures of a snapshot
const LENS = 132; // CSS pixels of a lens
const OVERLAY = 0.55; // how much of the restored picture the trust map covers
const ZOOM = 4; // screen pixels of a lens for one picture pixel

export const NAMES = { original: "Original", degraded: "Degraded", x_init: "Start (x_init)", trust: "Trust map", restored: "Restored", source: "Your source", film: "Carpenter bee" };

/** Where panel `index` of `count` lies in a video frame of `width` x `height`. Pure. */
export function cut(index, count, width, height) {
  const wide = width / count;
  return { x: index * wide, y: 0, width: wide, height };
}

/** Rows and columns for `count` pictures in a box of `boxWidth` CSS pixels. Pure. */
export function grid(count, boxWidth) {
  if (boxWidth < 620) return { columns: 1, rows: count };
  return count === 4 ? { columns: 2, rows: 2 } : { columns: count, rows: 1 };
}

export class View {
  /**
   * `sight` says how to show: `view` (wipe, side, single), `against` and `single` (panels), `split` in [0, 1], and whether
   * the panel `trust` lies over the restored one (`trust`: over).
   */
  constructor({ canvas, loupe, sight }) {
    Object.assign(this, { canvas, loupe, sight, context: canvas.getContext("2d", { alpha: false }) });
    this.panels = [];
    this.spot = null; // where the loupe looks, {x, y} in [0, 1] of a panel
    this.frames = 0;
    this.turn = 0;
    this.onLayout = () => {};
  }

  /** Shows `video`, whose frames hold `panels` side by side, until the next call. */
  show(video, panels) {
    Object.assign(this, { video, panels, turn: this.turn + 1 });
    this.frames = 0;
    this.#follow(this.turn);
  }

  /** Shows `scene`, a moving picture that is drawn here, until the next `show`. */
  preview(scene) {
    Object.assign(this, { video: null, panels: [], turn: this.turn + 1 });
    const [turn, start] = [this.turn, performance.now()];
    this.#fit(scene.width, scene.height, { columns: 1, rows: 1 });
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const paint = (now) => {
      if (turn !== this.turn) return;
      scene.draw(this.context, Math.max(0, now - start) / 1000); // a frame's time may lie before its request
      if (!still) requestAnimationFrame(paint);
    };
    requestAnimationFrame(paint);
  }

  /** The panels on the screen, left to right. */
  get shown() {
    const { sight } = this;
    const panels = this.panels.filter((panel) => panel !== "trust" || sight.trust !== "over");
    if (panels.length < 2 || sight.view === "side") return panels;
    if (sight.view === "single") return [panels.includes(sight.single) ? sight.single : "restored"];
    return [panels.includes(sight.against) ? sight.against : "degraded", "restored"];
  }

  get wiping() {
    return this.sight.view === "wipe" && this.panels.length > 1;
  }

  /** Paints the current frame. */
  draw() {
    const { video, context: c } = this;
    if (!video?.videoWidth) return;
    const { width, height } = this.#layout();
    const names = this.shown;
    if (this.wiping) this.#wipe(names, width, height);
    else names.forEach((name, i) => this.#shown(c, name, ...this.#place(i, width, height)));
    if (!this.loupe.hidden) this.#magnify();
  }

  /** A canvas with every panel at full size, and under each its name, under all the line `figures`; to be saved. */
  snapshot(figures) {
    const { width, height } = this.#size();
    const picture = document.createElement("canvas");
    Object.assign(picture, { width: this.panels.length * (width + GAP) - GAP, height: height + CAPTION });
    const c = picture.getContext("2d");
    c.fillStyle = "#0b0e12";
    c.fillRect(0, 0, picture.width, picture.height);
    this.panels.forEach((name, i) => {
      this.#panel(c, name, i * (width + GAP), 0, width, height);
      write(c, NAMES[name], i * (width + GAP) + 6, height + 17, width - 12);
    });
    write(c, figures, 6, height + 37, picture.width - 12);
    return picture;
  }

  /** The place in a panel, in [0, 1], under a place on the canvas in [0, 1]. */
  spotAt(x, y) {
    if (this.sight.view !== "side" || !this.grid) return { x, y };
    return { x: (x * this.grid.columns) % 1, y: (y * this.grid.rows) % 1 };
  }

  #follow(turn) {
    const { video } = this;
    const next = () => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(paint) : requestAnimationFrame(paint));
    const paint = () => {
      if (turn !== this.turn) return;
      this.frames += 1;
      this.draw();
      next();
    };
    next();
  }

  #size() {
    return { width: Math.round(this.video.videoWidth / this.panels.length), height: this.video.videoHeight };
  }

  #layout() {
    const { width, height } = this.#size();
    const count = this.wiping ? 1 : this.shown.length;
    this.grid = grid(count, this.canvas.parentElement.clientWidth);
    const { columns, rows } = this.grid;
    this.#fit(columns * (width + GAP) - GAP, rows * (height + GAP) - GAP, this.grid);
    return { width, height };
  }

  #fit(width, height, grid) {
    const key = [width, height, this.sight.view, this.sight.trust, this.shown].join();
    if (key === this.key) return;
    this.key = key;
    Object.assign(this.canvas, { width, height });
    this.onLayout({ width, height, ...grid });
  }

  #place(index, width, height) {
    const column = index % this.grid.columns;
    const row = Math.floor(index / this.grid.columns);
    return [column * (width + GAP), row * (height + GAP), width, height];
  }

  /** Paints a picture, and the trust map over the restored one where that is wished for. */
  #shown(c, name, ...place) {
    this.#panel(c, name, ...place);
    if (name !== "restored" || this.sight.trust !== "over" || !this.panels.includes("trust")) return;
    c.globalAlpha = OVERLAY;
    this.#panel(c, "trust", ...place);
    c.globalAlpha = 1;
  }

  #panel(c, name, x, y, width, height) {
    const from = cut(this.panels.indexOf(name), this.panels.length, this.video.videoWidth, this.video.videoHeight);
    c.drawImage(this.video, from.x, from.y, from.width, from.height, x, y, width, height);
  }

  #wipe([left, right], width, height) {
    const c = this.context;
    this.#shown(c, right, 0, 0, width, height);
    c.save();
    c.beginPath();
    c.rect(0, 0, this.sight.split * width, height);
    c.clip();
    this.#panel(c, left, 0, 0, width, height);
    c.restore();
  }

  /** The same spot of every panel, pixel by pixel. */
  #magnify() {
    if (!this.spot) return;
    const { loupe, panels, spot } = this;
    const { width, height } = this.#size();
    const lens = Math.min(LENS, Math.floor(this.canvas.clientWidth / panels.length) - 8);
    const scale = window.devicePixelRatio || 1;
    const side = lens / ZOOM;
    const from = { x: clamp(spot.x * width - side / 2, width - side), y: clamp(spot.y * height - side / 2, height - side) };
    loupe.style.setProperty("--lens", `${lens}px`);
    Object.assign(loupe, { width: panels.length * lens * scale, height: lens * scale });
    const c = loupe.getContext("2d", { alpha: false });
    c.imageSmoothingEnabled = false;
    panels.forEach((_, i) => {
      c.drawImage(this.video, i * width + from.x, from.y, side, side, i * lens * scale, 0, lens * scale - 2, lens * scale);
    });
  }
}

/** Writes one line, narrower where it would not fit. */
function write(c, text, x, y, width) {
  Object.assign(c, { fillStyle: "#e9edf3", font: "13px system-ui, sans-serif" });
  c.fillText(text, x, y, width);
}

function clamp(value, most) {
  return Math.min(Math.max(value, 0), most);
}
