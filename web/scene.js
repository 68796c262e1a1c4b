/** The built-in moving scene: lettering, edges, fine texture, slow and fast motion. Pure drawing: time is an argument. */

const SKY = ["#1b2a4a", "#41527f", "#c9827a", "#f3c58e"];
const WALLS = ["#2c3350", "#3a3f5e", "#4b4660", "#574a5c", "#34495a"];
const CABINS = ["#e4572e", "#f2c14e", "#4d9de0", "#3bb273", "#e15554", "#7768ae"];
const STRIP = 2.4; // width of the town that slides past, in picture widths

/** A scene of `width` x `height` pixels; `draw(context, seconds)` paints one moment of it. */
export class Scene {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.unit = height / 240;
    this.sky = paint(width, height, (c) => drawSky(c, width, height));
    this.town = paint(Math.round(width * STRIP), height, (c) => drawTown(c, width * STRIP, height));
  }

  draw(c, seconds) {
    const { width, height, unit } = this;
    c.drawImage(this.sky, 0, 0);
    drawClouds(c, width, unit, seconds);
    slide(c, this.town, seconds * 9 * unit, width);
    drawWheel(c, width * 0.74, 104 * unit, 74 * unit, seconds * 0.35);
    drawStreet(c, width, height, unit, seconds);
    drawTram(c, width, unit, seconds);
    drawClock(c, unit, seconds);
  }
}

function paint(width, height, draw) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  draw(canvas.getContext("2d"));
  return canvas;
}

/** The same "random" numbers on every machine (mulberry32), in [0, 1). */
function dice(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function drawSky(c, width, height) {
  const fall = c.createLinearGradient(0, 0, 0, height);
  SKY.forEach((colour, i) => fall.addColorStop((i / (SKY.length - 1)) * 0.8, colour));
  c.fillStyle = fall;
  c.fillRect(0, 0, width, height);
  const glow = c.createRadialGradient(width * 0.3, height * 0.55, 0, width * 0.3, height * 0.55, height * 0.5);
  glow.addColorStop(0, "#ffe9c0");
  glow.addColorStop(0.16, "#ffdfa8");
  glow.addColorStop(0.2, "#ffd49155");
  glow.addColorStop(1, "#ffd49100");
  c.fillStyle = glow;
  c.fillRect(0, 0, width, height);
}

function drawTown(c, width, height) {
  const unit = height / 240;
  const roll = dice(7);
  for (let x = 0; x < width; ) {
    const wide = Math.min((26 + roll() * 44) * unit, width - x);
    drawHouse(c, x, wide, (60 + roll() * 78) * unit, 186 * unit, unit, roll);
    x += wide;
  }
}

function drawHouse(c, x, wide, tall, ground, unit, roll) {
  c.fillStyle = WALLS[Math.floor(roll() * WALLS.length)];
  c.fillRect(x, ground - tall, wide, tall);
  c.fillStyle = "#ffffff14";
  for (let y = ground - tall; y < ground; y += 3 * unit) c.fillRect(x, y, wide, unit); // courses of brick
  const step = (6 + Math.floor(roll() * 4)) * unit;
  for (let y = ground - tall + 6 * unit; y < ground - 8 * unit; y += step * 1.3)
    for (let u = x + 4 * unit; u < x + wide - 5 * unit; u += step) {
      c.fillStyle = roll() < 0.45 ? "#ffdf9a" : "#151c30";
      c.fillRect(u, y, step * 0.5, step * 0.75);
    }
  if (roll() < 0.5) drawMast(c, x + wide / 2, ground - tall, unit);
}

function drawMast(c, x, top, unit) {
  c.strokeStyle = "#20263c";
  c.lineWidth = unit;
  c.beginPath();
  c.moveTo(x, top);
  c.lineTo(x, top - 20 * unit);
  for (let i = 1; i < 4; i++) {
    c.moveTo(x - (7 - i) * unit, top - (5 * i + 3) * unit);
    c.lineTo(x + (7 - i) * unit, top - (5 * i + 3) * unit);
  }
  c.stroke();
}

function drawClouds(c, width, unit, seconds) {
  const roll = dice(3);
  c.fillStyle = "#ffffff26";
  for (let i = 0; i < 5; i++) {
    const long = (50 + roll() * 60) * unit;
    const span = width + 2 * long;
    const x = ((roll() * span + seconds * (4 + 3 * roll()) * unit) % span) - long;
    const y = (18 + roll() * 70) * unit;
    for (let k = 0; k < 3; k++) {
      c.beginPath();
      c.ellipse(x + k * long * 0.25, y - (k % 2) * 4 * unit, long * 0.3, (5 + 2 * k) * unit, 0, 0, 7);
      c.fill();
    }
  }
}

/** Draws `strip` moved by `by` pixels, and again behind its end. */
function slide(c, strip, by, width) {
  const x = -(by % strip.width);
  c.drawImage(strip, x, 0);
  if (x + strip.width < width) c.drawImage(strip, x + strip.width, 0);
}

function drawWheel(c, x, y, radius, angle) {
  c.save();
  c.translate(x, y);
  c.strokeStyle = "#e9e4da";
  c.lineWidth = radius / 46;
  stroke(c, () => {
    // the stand
    c.moveTo(0, 0);
    c.lineTo(-radius * 0.55, radius * 1.16);
    c.moveTo(0, 0);
    c.lineTo(radius * 0.55, radius * 1.16);
  });
  for (const share of [1, 0.9, 0.3]) stroke(c, () => c.arc(0, 0, radius * share, 0, 7));
  c.lineWidth = radius / 90;
  stroke(c, () => spokes(c, radius, angle));
  for (let i = 0; i < 12; i++) drawCabin(c, radius, angle + (i * Math.PI) / 6, CABINS[i % CABINS.length]);
  c.restore();
}

function stroke(c, path) {
  c.beginPath();
  path();
  c.stroke();
}

function spokes(c, radius, angle) {
  for (let i = 0; i < 24; i++) {
    const a = angle + (i * Math.PI) / 12;
    const b = a + (i % 2 ? 0.13 : -0.13);
    c.moveTo(0.08 * radius * Math.cos(a), 0.08 * radius * Math.sin(a));
    c.lineTo(radius * Math.cos(b), radius * Math.sin(b));
  }
}

function drawCabin(c, radius, angle, colour) {
  const [x, y, r] = [radius * Math.cos(angle), radius * Math.sin(angle), radius * 0.085];
  c.fillStyle = colour;
  c.beginPath();
  c.roundRect(x - r, y, 2 * r, 2 * r, r * 0.5);
  c.fill();
  c.fillStyle = "#fff8e0";
  c.fillRect(x - r * 0.65, y + r * 0.35, r * 1.3, r * 0.6);
}

function drawStreet(c, width, height, unit, seconds) {
  const top = 186 * unit;
  c.fillStyle = "#3b3a41";
  c.fillRect(0, top, width, height - top);
  c.fillStyle = "#6d6a70";
  c.fillRect(0, top, width, 3 * unit);
  c.fillStyle = "#56545b";
  const shift = (seconds * 28 * unit) % (8 * unit);
  for (let row = 0; row < 7; row++) // cobbles: fine texture that moves
    for (let x = -8 * unit - shift + (row % 2) * 4 * unit; x < width; x += 8 * unit)
      c.fillRect(x, top + (10 + row * 6) * unit, 6 * unit, 4 * unit);
  c.fillStyle = "#b9b4ab";
  for (const y of [215, 229]) c.fillRect(0, y * unit, width, 1.4 * unit);
}

function drawTram(c, width, unit, seconds) {
  const [long, tall] = [216 * unit, 54 * unit];
  const span = width + long * 1.3;
  const x = span - ((seconds * 46 * unit + span * 0.62) % span) - long * 1.1;
  c.save();
  c.translate(x, 168 * unit);
  c.fillStyle = "#b3261e";
  c.beginPath();
  c.roundRect(0, 0, long, tall, [12 * unit, 12 * unit, 4 * unit, 4 * unit]);
  c.fill();
  c.fillStyle = "#f6ead6";
  c.fillRect(0, 24 * unit, long, 17 * unit);
  drawWindows(c, long, unit);
  drawLettering(c, unit);
  drawBogies(c, long, tall, unit, seconds);
  c.restore();
}

function drawWindows(c, long, unit) {
  for (let i = 0; i < 8; i++) {
    c.fillStyle = "#22314d";
    c.fillRect((8 + i * 26) * unit, 5 * unit, 21 * unit, 15 * unit);
    c.fillStyle = "#9db9d855";
    c.fillRect((8 + i * 26) * unit, 5 * unit, 7 * unit, 15 * unit);
  }
  c.fillStyle = "#ffe08a";
  c.fillRect(0, 28 * unit, 4 * unit, 6 * unit);
}

function drawLettering(c, unit) {
  c.fillStyle = "#7c1410";
  c.textBaseline = "middle";
  c.font = `700 ${13 * unit}px Georgia, "DejaVu Serif", serif`;
  c.fillText("AVIS Flash", 10 * unit, 33 * unit);
  c.font = `500 ${8.5 * unit}px "Helvetica Neue", Arial, "DejaVu Sans", sans-serif`;
  c.fillText("Line 12  ·  Harbour – Old Town", 92 * unit, 33 * unit);
}

function drawBogies(c, long, tall, unit, seconds) {
  for (const at of [30, 52, 164, 186]) {
    c.save();
    c.translate(at * unit, tall + 2 * unit);
    c.rotate(-seconds * 5);
    c.fillStyle = "#17181c";
    c.beginPath();
    c.arc(0, 0, 8 * unit, 0, 7);
    c.fill();
    c.fillStyle = "#a8a49b";
    for (let i = 0; i < 5; i++) {
      c.rotate((2 * Math.PI) / 5);
      c.fillRect(-0.8 * unit, 0, 1.6 * unit, 7 * unit);
    }
    c.restore();
  }
}

function drawClock(c, unit, seconds) {
  const text = `${String(Math.floor(seconds / 60) % 60).padStart(2, "0")}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
  c.fillStyle = "#0b0f1acc";
  c.fillRect(10 * unit, 8 * unit, 58 * unit, 18 * unit);
  c.fillStyle = "#ffffff";
  c.textBaseline = "middle";
  c.font = `600 ${12 * unit}px ui-monospace, "DejaVu Sans Mono", monospace`;
  c.fillText(text, 16 * unit, 17.5 * unit);
}
