// The chosen clip: its picture, rating, takes, references and all its facts.

import { ask, downloadOf, spectrogramOf } from "./api.js";
import { clipTrack, referenceTrack } from "./player.js";
import { grouped } from "./query.js";
import { durationOf, el, level, named, seconds, shown, stars } from "./format.js";

const NARROW = matchMedia("(max-width: 999px)");

export class Detail {
  constructor(page) {
    this.page = page;
    this.root = document.querySelector("#detail");
    page.player.addEventListener("change", () => this.#mark());
    page.player.addEventListener("progress", () => this.#mark());
  }

  get isOpen() { return !this.root.hidden; }

  close() {
    if (!this.isOpen) return;
    this.root.hidden = true;
    document.body.classList.remove("detailed");
    this.page.list_.row(this.page.chosen)?.querySelector(".open")?.focus({ preventScroll: true });
  }

  async show(clipId, { open = true } = {}) {
    if (!open && (NARROW.matches || !this.isOpen && innerWidth < 1000)) return;
    const asked = this.asked = clipId;
    const found = await ask(`/api/clips/${clipId}`).catch(error => ({ error }));
    if (this.asked !== asked) return;
    this.root.hidden = false;
    document.body.classList.toggle("detailed", true);
    if (found.error) {
      this.root.replaceChildren(el("p", { class: "empty" }, found.error.message));
      return;
    }
    this.clip = found.clip;
    this.root.replaceChildren(...this.#content(found));
    this.root.scrollTop = 0;
    if (NARROW.matches && open) this.root.querySelector(".close").focus();
    this.#mark();
  }

  rated(clipId, rating) {
    if (this.clip?.clip_id === clipId) {
      this.clip[":rating"] = rating;
      for (const button of this.root.querySelectorAll(".rate [data-stars]")) {
        button.setAttribute("aria-pressed", String(Number(button.dataset.stars) === rating));
        button.classList.toggle("lit", Number(button.dataset.stars) <= (rating ?? 0));
      }
    }
    const cell = this.root.querySelector(`[data-take="${clipId}"] .stars`);
    if (cell) cell.textContent = stars(rating);
  }

  #content({ clip, takes, references }) {
    const track = clipTrack(clip);
    return [
      el("div", { class: "head" },
        el("h2", { class: clip.prompt ? "" : "none" }, clip.prompt || "no prompt"),
        el("button", { type: "button", class: "close", "aria-label": "Close the clip", onclick: () => this.close() }, "×")),
      el("p", { class: "note" }, `${clip.id} · take ${clip.take} · ${seconds(durationOf(clip))} · ${level(clip.loudness_lufs)}`),
      this.#screen(clip, track),
      el("div", { class: "actions" },
        this.#play(track, named(clip)), this.#rating(clip), this.#compare(track, named(clip)),
        el("a", { class: "button", href: downloadOf(clip.clip_id), download: "", "aria-label": `Download ${named(clip)}` }, "Download")),
      takes.length > 1 ? this.#tracks("Takes of this row", takes.map(take => this.#take(take, clip))) : null,
      references.length ? this.#tracks("References", references.map(each => this.#reference(clip, each))) : null,
      ...this.#facts(clip),
    ].filter(Boolean);
  }

  #screen(clip, track) {
    const picture = el("img", { src: spectrogramOf(clip.clip_id), alt: `Spectrogram of ${named(clip)}`, decoding: "async" });
    const screen = el("div", { class: "screen" }, picture,
      el("span", { class: "hz top", "aria-hidden": "true" }, `${clip.sample_rate_hz / 2000} kHz`),
      el("span", { class: "hz low", "aria-hidden": "true" }, `${this.page.about.lowest_hz} Hz`),
      el("i", { class: "needle" }));
    picture.addEventListener("error", async () => {
      const said = await ask(spectrogramOf(clip.clip_id)).catch(error => error);
      screen.replaceChildren(el("p", {}, said instanceof Error ? said.message : "The picture can't be drawn."));
      screen.classList.add("lost");
    });
    screen.addEventListener("click", event => {
      const box = screen.getBoundingClientRect();
      const part = (event.clientX - box.left) / box.width;
      if (this.page.player.track?.key !== track.key) this.page.player.play(track, part * track.duration);
      else this.page.player.seek(part * track.duration);
    });
    return screen;
  }

  #play(track, name, extra = "") {
    return el("button", { type: "button", class: `round play ${extra}`, data: { track: track.key, name }, "aria-label": `Play ${name}`,
      onclick: () => this.page.player.toggle(track) });
  }

  #rating(clip) {
    const buttons = [1, 2, 3, 4, 5].map(n => el("button", {
      type: "button", data: { stars: n }, class: n <= (clip[":rating"] ?? 0) ? "lit" : "",
      "aria-pressed": String(clip[":rating"] === n), "aria-label": `Rate ${clip.id} take ${clip.take}: ${n} of 5`,
      onclick: () => this.page.rate(clip.clip_id, clip[":rating"] === n ? null : n),
    }, "★"));
    return el("div", { class: "rate", role: "group", "aria-label": `Rating of ${clip.id} take ${clip.take}` }, ...buttons);
  }

  #compare(track, name) {
    const side = each => el("button", { type: "button", class: "toggle", "aria-label": `Put ${name} on ${each}`,
      onclick: () => this.page.player.put(each, track) }, each);
    return el("span", { class: "pair" }, side("A"), side("B"));
  }

  #tracks(title, rows) { return el("section", {}, el("h3", {}, title), el("ul", { class: "tracks" }, ...rows)); }

  #take(take, clip) {
    const here = take.clip_id === clip.clip_id;
    const track = clipTrack(take);
    return el("li", { data: { take: take.clip_id }, class: here ? "here" : "" },
      this.#play(track, named(take), "small"),
      el("button", { type: "button", class: "open", "aria-current": here ? "true" : null, onclick: () => this.page.choose(take) }, `Take ${take.take}`),
      el("span", { class: "note" }, level(take.loudness_lufs)),
      el("span", { class: "stars" }, stars(take[":rating"])),
      this.#compare(track, `${take.id} take ${take.take}`));
  }

  #reference(clip, reference) {
    const track = referenceTrack(clip, reference);
    const name = `${reference.role} of ${clip.id}`;
    return el("li", {}, this.#play(track, name, "small"),
      el("span", { class: "open" }, reference.role),
      el("span", { class: "note", title: reference.shown }, reference.file || reference.shown),
      this.#compare(track, name));
  }

  #facts(clip) {
    return grouped(this.page.columns, (title, columns) => {
      const listed = columns.filter(column => column.name !== ":rating" && clip[column.name] !== null && clip[column.name] !== undefined);
      if (!listed.length) return null;
      const facts = el("dl", {}, ...listed.flatMap(column => [
        el("dt", { title: column.text }, column.label), el("dd", {}, shown(clip[column.name], column))]));
      return el("details", { open: title === "Measures" || title.startsWith("Columns") }, el("summary", {}, title), facts);
    });
  }

  #mark() {
    const { player } = this.page;
    for (const button of this.root.querySelectorAll("button.play")) {
      const on = player.isPlaying(button.dataset.track);
      button.classList.toggle("on", on);
      button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${button.dataset.name}`);
    }
    const screen = this.root.querySelector(".screen");
    if (screen) {
      const here = player.track?.key === this.clip?.clip_id;
      screen.style.setProperty("--played", here ? player.progress : 0);
      screen.classList.toggle("started", here && player.progress > 0);
    }
  }
}
