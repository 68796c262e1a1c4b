/** A worker that ticks `fps` times a second on an absolute clock: timers of a page in the background do not. */

onmessage = ({ data: fps }) => {
  const start = performance.now();
  let n = 0;
  const next = () => {
    n = Math.max(n + 1, Math.floor(((performance.now() - start) * fps) / 1000));
    setTimeout(() => { postMessage(n / fps); next(); }, start + (n * 1000) / fps - performance.now());
  };
  next();
};
