// Plays one track at a time. Two tracks can lie on A and B: switching goes on at the same moment, at
// the same loudness where levels are matched. Levels are only ever lowered.

import { ask, audioOf, referenceOf } from "./api.js";
import { clock, decibels, durationOf, el } from "./format.js";

const LEVEL_LUFS = -20; // of everything, where levels are matched and A and B are not in use
const SIDES = ["A", "B"];

export function clipTrack(clip) {
  return {
    key: clip.clip_id, url: audioOf(clip.clip_id), clip, title: clip.prompt ?? "no prompt",
    note: `${clip.id} · take ${clip.take}`, loudness: clip.loudness_lufs, duration: durationOf(clip),
  };
}

export function referenceTrack(clip, reference) {
  const url = referenceOf(clip.clip_id, reference.role);
  return {
    key: `${clip.clip_id}/${reference.role}`, url, clip: null, title: reference.file || reference.shown,
    note: `${reference.role} of ${clip.id}`, loudness: undefined, duration: NaN,
    measure: () => ask(`${url}/loudness`).then(found => found.loudness_lufs),
  };
}

export class Player extends EventTarget {
  constructor(root) {
    super();
    this.track = null;
    this.sides = { A: null, B: null };
    this.matched = true;
    this.loop = false;
    this.volume = 1;
    this.decks = new Map(); // track key to its audio element
    this.root = root;
    this.#build();
  }

  get audio() { return this.track && this.decks.get(this.track.key); }
  get playing() { return Boolean(this.audio && !this.audio.paused); }
  isPlaying(key) { return this.playing && this.track.key === key; }

  play(track, at = null) {
    this.audio?.pause();
    const audio = this.#deck(track);
    this.track = track;
    this.root.hidden = false;
    this.#forgetOthers();
    this.#setLevels();
    if (at !== null) audio.currentTime = Math.min(at, audio.duration || at);
    this.say("");
    audio.play().catch(error => {
      if (error.name !== "AbortError" && this.track === track) this.#explain(track);
    });
    this.#changed();
  }

  toggle(track = this.track) {
    if (!track) return;
    if (this.track?.key !== track.key) this.play(track);
    else if (this.playing) this.audio.pause();
    else this.play(track);
  }

  pause() { this.audio?.pause(); }

  seek(second) {
    const audio = this.audio;
    if (!audio) return;
    audio.dataset.sought = "yes";
    audio.currentTime = Math.max(0, Math.min(second, (audio.duration || this.track.duration) - 0.05));
    this.#show();
  }

  put(side, track) {
    this.sides[side] = track;
    this.root.hidden = false;
    this.#deck(track);
    if (!this.track) this.track = track;
    this.#measure(track);
    this.#forgetOthers();
    this.#setLevels();
    this.#changed();
  }

  switchSides() {
    const { A, B } = this.sides;
    if (!A || !B) return;
    const next = this.track?.key === A.key ? B : A;
    const audio = this.audio;
    const at = audio && (this.track.key === A.key || this.track.key === B.key) ? audio.currentTime : 0;
    this.play(next, at);
  }

  clearSides() {
    this.sides = { A: null, B: null };
    this.#forgetOthers();
    this.#setLevels();
    this.#changed();
  }

  setLoop(on) {
    this.loop = on;
    for (const audio of this.decks.values()) audio.loop = on;
    this.#changed();
  }

  setMatched(on) {
    this.matched = on;
    if (this.track) this.#measure(this.track);
    this.#setLevels();
    this.#changed();
  }

  say(text) {
    this.ui.trouble.textContent = text;
    this.ui.trouble.hidden = !text;
  }

  // Decibels by which a track is lowered.
  gainOf(track) {
    if (!this.matched || typeof track.loudness !== "number") return 0;
    const { A, B } = this.sides;
    const compared = A && B && [A.key, B.key].includes(track.key);
    const levels = [A, B].map(side => side?.loudness);
    const target = compared && levels.every(each => typeof each === "number")
      ? Math.min(...levels) : LEVEL_LUFS;
    return Math.min(0, target - track.loudness);
  }

  #deck(track) {
    let audio = this.decks.get(track.key);
    if (audio) return audio;
    audio = new Audio();
    audio.preload = "auto";
    audio.loop = this.loop;
    audio.src = track.url;
    this.decks.set(track.key, audio);
    for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, () => this.#changed());
    for (const event of ["timeupdate", "durationchange", "seeked"]) {
      audio.addEventListener(event, () => this.#show());
    }
    audio.addEventListener("ended", () => {
      if (this.track?.key === track.key) this.dispatchEvent(new CustomEvent("finished", { detail: track }));
    });
    audio.addEventListener("error", () => {
      // Chromium can't jump inside FLAC files of about a second: those begin again.
      if (audio.dataset.sought) {
        delete audio.dataset.sought;
        audio.src = track.url;
        if (this.track?.key === track.key) audio.play().catch(() => this.#explain(track));
      } else if (this.track?.key === track.key) this.#explain(track);
    });
    return audio;
  }

  // Elements of tracks that are neither heard nor compared.
  #forgetOthers() {
    const kept = [this.track, this.sides.A, this.sides.B].filter(Boolean).map(track => track.key);
    for (const [key, audio] of this.decks) {
      if (kept.includes(key)) continue;
      audio.pause();
      audio.removeAttribute("src");
      audio.load();
      this.decks.delete(key);
    }
  }

  async #measure(track) {
    if (!track.measure || track.loudness !== undefined || !this.matched) return;
    track.loudness = null;
    track.loudness = await track.measure().catch(() => null);
    this.#setLevels();
    this.#changed();
  }

  #setLevels() {
    for (const track of [this.track, this.sides.A, this.sides.B].filter(Boolean)) {
      const audio = this.decks.get(track.key);
      if (audio) audio.volume = this.volume * 10 ** (this.gainOf(track) / 20);
    }
  }

  async #explain(track) {
    const said = await ask(track.url).catch(error => error);
    this.say(`${track.note} can't be played: ${said instanceof Error ? said.message : "the browser refuses it"}`);
    this.#changed();
  }

  #changed() {
    this.#show();
    this.dispatchEvent(new Event("change"));
    if (this.playing) requestAnimationFrame(() => this.#follow());
  }

  #follow() {
    if (!this.playing) return;
    this.dispatchEvent(new Event("progress"));
    requestAnimationFrame(() => this.#follow());
  }

  get progress() {
    const audio = this.audio;
    const length = audio && (audio.duration || this.track.duration);
    return length ? Math.min(1, audio.currentTime / length) : 0;
  }

  // --- the bar

  #build() {
    const ui = this.ui = {
      play: el("button", { type: "button", class: "round play", onclick: () => this.toggle() }),
      title: el("b", { class: "title" }),
      note: el("span", { class: "note" }),
      at: el("span", { class: "time" }),
      seek: el("input", { type: "range", min: 0, max: 1000, value: 0, class: "seek" }),
      volume: el("input", { type: "range", min: 0, max: 100, value: 100, class: "volume", "aria-label": "Volume" }),
      loop: el("button", { type: "button", class: "toggle", onclick: () => this.setLoop(!this.loop) }, "Loop"),
      match: el("button", { type: "button", class: "toggle", onclick: () => this.setMatched(!this.matched) }),
      trouble: el("p", { class: "trouble", role: "alert", hidden: true }),
      sides: el("div", { class: "sides", role: "group", "aria-label": "A and B", hidden: true }),
    };
    ui.seek.addEventListener("input", () => {
      const audio = this.audio;
      if (audio) this.seek(ui.seek.value / 1000 * (audio.duration || this.track.duration || 0));
    });
    ui.volume.addEventListener("input", () => {
      this.volume = ui.volume.value / 100;
      this.#setLevels();
    });
    this.root.append(
      ui.trouble,
      ui.sides,
      el("div", { class: "deck" },
        ui.play,
        el("div", { class: "what" }, ui.title, ui.note),
        el("div", { class: "along" }, ui.seek, ui.at),
        el("div", { class: "knobs" }, ui.loop, ui.match, el("label", { class: "loud" }, el("span", {}, "Volume"), ui.volume))),
    );
  }

  #show() {
    const { ui, track, audio } = this;
    if (!track) return;
    const length = audio?.duration || track.duration || 0;
    ui.play.setAttribute("aria-label", `${this.playing ? "Pause" : "Play"} ${track.note}`);
    ui.play.classList.toggle("on", this.playing);
    ui.title.textContent = track.title;
    ui.note.textContent = track.note;
    ui.at.textContent = `${clock(audio?.currentTime)} / ${clock(length)}`;
    ui.seek.setAttribute("aria-label", `Position in ${track.note}`);
    ui.seek.setAttribute("aria-valuetext", `${clock(audio?.currentTime)} of ${clock(length)}`);
    if (document.activeElement !== ui.seek || !ui.seek.matches(":active")) ui.seek.value = 1000 * this.progress;
    ui.loop.setAttribute("aria-pressed", this.loop);
    ui.match.setAttribute("aria-pressed", this.matched);
    const gain = this.gainOf(track);
    ui.match.textContent = this.matched && gain < 0 ? `Match levels (${decibels(gain)})` : "Match levels";
    this.#showSides();
  }

  #showSides() {
    const { ui, sides } = this;
    const state = JSON.stringify([sides.A?.key, sides.B?.key, this.track?.key]);
    if (ui.sides.dataset.state === state) return;
    ui.sides.dataset.state = state;
    ui.sides.hidden = !sides.A && !sides.B;
    const buttons = SIDES.map(side => {
      const track = sides[side];
      const on = track && this.track?.key === track.key;
      return el("button", {
        type: "button", class: `side ${on ? "on" : ""}`, disabled: !track, "aria-pressed": String(Boolean(on)),
        onclick: () => {
          const heard = SIDES.some(each => sides[each]?.key === this.track?.key);
          this.play(track, heard && this.audio ? this.audio.currentTime : null);
        },
      }, el("b", {}, side), el("span", {}, track ? `${track.note}` : "empty"));
    });
    ui.sides.replaceChildren(
      ...buttons,
      el("button", { type: "button", class: "toggle", disabled: !sides.A || !sides.B, onclick: () => this.switchSides() }, "Switch (x)"),
      el("button", { type: "button", class: "plain", "aria-label": "Clear A and B", onclick: () => this.clearSides() }, "Clear"),
    );
  }
}
