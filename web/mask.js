/** The mask a person draws on the picture: painted is lost. Knows no server. */

const START = [[0.22, 0.3, 0.5, 0.3], [0.5, 0.3, 0.62, 0.62]]; // strokes to begin with: a scratch

export class MaskEditor {
  /** `onChange(png)` gets the mask as base64 PNG, white where the picture is kept, after each stroke. */
  constructor(canvas, onChange) {
    Object.assign(this, { canvas, onChange, brush: 18, strokes: [] });
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#go(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#end());
  }

  /** Fits the mask to a picture of `width` x `height`. */
  resize(width, height) {
    if (this.canvas.width === width && this.canvas.height === height) return;
    Object.assign(this.canvas, { width, height });
    if (!this.strokes.length) this.reset();
    this.#paint();
  }

  /** A first scratch, so that there is something to restore. */
  reset() {
    this.strokes = START.map(([x, y, u, v]) => ({ brush: 14, points: [[x, y], [u, v]] }));
    this.#paint();
  }

  /** Draws `strokes`, which were this editor's once. */
  show(strokes) {
    this.strokes = strokes;
    this.#paint();
  }

  clear() {
    this.strokes = [];
    this.#paint();
    this.onChange(this.png());
  }

  /** The mask as a PNG file in base64: 255 kept, 0 lost. */
  png() {
    const { width, height } = this.canvas;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const c = canvas.getContext("2d", { alpha: false });
    c.fillStyle = "#fff";
    c.fillRect(0, 0, width, height);
    this.#lines(c, "#000");
    return canvas.toDataURL("image/png").split(",")[1];
  }

  #begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.strokes = [...this.strokes, { brush: this.brush, points: [this.#at(event)] }]; // a new list: others keep the old one
    this.#show(true);
    this.#paint();
  }

  #go(event) {
    if (!this.drawing) return;
    this.strokes.at(-1).points.push(this.#at(event));
    this.#paint();
  }

  #end() {
    if (!this.drawing) return;
    this.#show(false);
    this.onChange(this.png());
  }

  /** The tint fades after a stroke, so that the restored picture is seen. */
  #show(drawing) {
    this.drawing = drawing;
    this.canvas.dataset.drawing = drawing;
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #paint() {
    const c = this.canvas.getContext("2d");
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.globalAlpha = 0.6;
    this.#lines(c, "#ff5440");
    c.globalAlpha = 1;
  }

  #lines(c, colour) {
    const { width, height } = this.canvas;
    Object.assign(c, { strokeStyle: colour, lineCap: "round", lineJoin: "round" });
    for (const { brush, points } of this.strokes) {
      c.lineWidth = (brush * height) / 240;
      c.beginPath();
      points.forEach(([x, y], i) => (i ? c.lineTo(x * width, y * height) : c.moveTo(x * width, y * height)));
      if (points.length === 1) c.lineTo(points[0][0] * width + 0.01, points[0][1] * height);
      c.stroke();
    }
  }
}
