// Values as people read them, and elements whose text is always text.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

// Text whose `commands` stand in the type of code.
export function withCode(text) {
  const parts = text.split("`");
  if (parts.length % 2 === 0) return [text];
  return parts.map((part, at) => at % 2 ? el("code", {}, part) : part);
}

const whole = new Intl.NumberFormat("en");
export const count = n => whole.format(n);
export const things = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
const minus = text => text.replace("-", "−");

export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 10) return `${value.toFixed(1)} s`;
  const all = Math.round(value);
  return all < 60 ? `${all} s` : `${Math.floor(all / 60)}:${String(all % 60).padStart(2, "0")}`;
}

export function clock(value) {
  const at = Number.isFinite(value) ? Math.max(0, value) : 0;
  return `${Math.floor(at / 60)}:${String(Math.floor(at % 60)).padStart(2, "0")}`;
}

export const durationOf = clip => clip.n_samples / clip.sample_rate_hz;
export const level = lufs => lufs === null || lufs === undefined ? "–" : minus(`${lufs.toFixed(1)} LUFS`);
export const decibels = db => minus(`${db.toFixed(1)} dB`);

export function shown(value, column) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (column.kind === "time") return value.replace("T", " ").slice(0, 19);
  if (typeof value === "number") {
    if (column.unit.startsWith("share")) return `${minus((100 * value).toFixed(1))} %`;
    const digits = Number.isInteger(value) ? 0 : Math.abs(value) < 1 ? 3 : 1;
    const text = Number.isInteger(value) ? (column.unit ? count(value) : String(value)) : value.toFixed(digits);
    return `${minus(text)} ${column.unit}`.trim();
  }
  return String(value);
}

export const stars = rating => rating ? "★".repeat(rating) + "☆".repeat(5 - rating) : "";

// What a control calls a clip.
export function named(clip) {
  const prompt = clip.prompt ? `: ${clip.prompt.slice(0, 80)}` : "";
  return `${clip.id} take ${clip.take}${prompt}`;
}

export function debounced(action, milliseconds) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), milliseconds);
  };
}
