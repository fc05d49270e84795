// The list of clips: one page of what the query finds.

import { clipTrack } from "./player.js";
import { count, durationOf, el, level, named, seconds, shown, stars, things } from "./format.js";

export class List {
  constructor(page) {
    this.page = page; // the state that the modules share
    this.root = document.querySelector("#rows");
    this.clips = [];
    this.found = 0;
    document.querySelector("#page-back").addEventListener("click", () => this.turn(-1));
    document.querySelector("#page-on").addEventListener("click", () => this.turn(1));
    page.player.addEventListener("change", () => this.mark());
  }

  turn(by) {
    const { query } = this.page;
    const offset = query.offset + by * query.limit;
    if (offset < 0 || offset >= this.found) return false;
    this.page.ask({ offset });
    scrollTo({ top: 0 });
    return true;
  }

  show(clips, found) {
    this.clips = clips;
    this.found = found;
    const held = document.activeElement?.closest("[data-clip]");
    const focused = held && this.root.contains(held) ? [held.dataset.clip, document.activeElement.className] : null;
    const { chosen } = this.page;
    this.root.replaceChildren(clips.length ? this.#table(clips) : this.#empty());
    this.mark();
    if (focused) {
      const row = this.row(focused[0]);
      [...(row?.querySelectorAll("button") ?? [])].find(each => each.className === focused[1])?.focus({ preventScroll: true });
    }
    this.#pages();
    if (chosen) this.row(chosen)?.setAttribute("aria-current", "true");
  }

  row(clipId) { return this.root.querySelector(`[data-clip="${clipId}"]`); }

  mark() {
    for (const row of this.root.querySelectorAll("[data-clip]")) {
      const clip = this.clips.find(each => each.clip_id === row.dataset.clip);
      const on = this.page.player.isPlaying(row.dataset.clip);
      row.classList.toggle("playing", on);
      row.toggleAttribute("aria-current", false);
      if (row.dataset.clip === this.page.chosen) row.setAttribute("aria-current", "true");
      const button = row.querySelector(".play");
      button.classList.toggle("on", on);
      button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${named(clip)}`);
    }
  }

  rated(clipId, rating) {
    const clip = this.clips.find(each => each.clip_id === clipId);
    if (clip) clip[":rating"] = rating;
    const cell = this.row(clipId)?.querySelector(".stars");
    if (cell) this.#fillStars(cell, rating);
  }

  // The clip so many places below the chosen one, on this page.
  neighbour(by) {
    const at = this.clips.findIndex(each => each.clip_id === this.page.chosen);
    return at < 0 ? this.clips[0] : this.clips[at + by];
  }

  #fillStars(cell, rating) {
    cell.textContent = stars(rating);
    cell.setAttribute("aria-label", rating ? `rated ${rating} of 5` : "not rated");
  }

  #empty() {
    const { page } = this;
    const narrowed = page.query.search || page.query.filters.length;
    if (page.state.is_loading && !narrowed) return el("p", { class: "empty" }, "The first parts are being read …");
    if (!narrowed) return el("p", { class: "empty" }, "No clip is committed yet. Clips appear here as a run commits them.");
    return el("p", { class: "empty" }, "No clip fits. ",
      el("button", { type: "button", class: "main", onclick: () => page.ask({ search: "", filters: [], offset: 0 }) }, "Show all clips"));
  }

  #table(clips) {
    const extras = this.page.columns.filter(column => this.page.listed.includes(column.name));
    const { query } = this.page;
    const head = (label, name, kind = "") => {
      const sorted = query.sort === name ? (query.descending ? "descending" : "ascending") : "none";
      const sort = () => this.page.ask({ sort: name, descending: sorted === "descending" ? false : kind !== "text", offset: 0 });
      return el("th", { scope: "col", role: "columnheader", "aria-sort": sorted, class: kind === "number" ? "number" : "" },
        el("button", { type: "button", onclick: sort }, label, el("span", { class: "arrow", "aria-hidden": "true" },
          sorted === "descending" ? " ↓" : sorted === "ascending" ? " ↑" : "")));
    };
    const headings = el("tr", { role: "row" },
      el("th", { scope: "col", role: "columnheader" }, el("span", { class: "hidden" }, "Play")),
      head("Prompt", "prompt", "text"), head("Rating", ":rating", "number"),
      head("Length", "duration_s", "number"), head("Loudness", "loudness_lufs", "number"),
      ...extras.map(column => head(column.label, column.name, column.kind)));
    return el("table", { role: "table", "aria-label": "Clips", class: extras.length > 3 ? "wide" : "" },
      el("thead", { role: "rowgroup" }, headings),
      el("tbody", { role: "rowgroup" }, ...clips.map(clip => this.#row(clip, extras))));
  }

  #row(clip, extras) {
    const choose = () => this.page.choose(clip);
    const rating = el("td", { class: "stars", role: "cell" });
    this.#fillStars(rating, clip[":rating"]);
    const chips = clip.roles.map(role => el("span", { class: "chip" }, role));
    if (clip.qc_failed) chips.push(el("span", { class: "chip warn" }, `failed ${clip.qc_failed}`));
    return el("tr", { data: { clip: clip.clip_id }, role: "row", onclick: event => { if (!event.target.closest("button")) choose(); } },
      el("td", { class: "first", role: "cell" },
        el("button", { type: "button", class: "round play", "aria-label": `Play ${named(clip)}`,
          onclick: () => { this.page.choose(clip, { open: false }); this.page.player.toggle(clipTrack(clip)); } })),
      el("td", { class: "prompt", role: "cell" },
        el("button", { type: "button", class: `open ${clip.prompt ? "" : "none"}`, onclick: choose }, clip.prompt || "no prompt"),
        el("span", { class: "note" }, `${clip.id} · take ${clip.take} `, ...chips)),
      rating,
      el("td", { class: "number", role: "cell" }, seconds(durationOf(clip))),
      el("td", { class: "number level", role: "cell" }, level(clip.loudness_lufs)),
      ...extras.map(column => el("td", { class: `extra ${column.kind}`, role: "cell", title: column.label },
        el("span", { class: "label" }, `${column.label} `), shown(clip[column.name], column))));
  }

  #pages() {
    const { query } = this.page;
    const last = Math.min(query.offset + this.clips.length, this.found);
    document.querySelector("#found").textContent = `${things(this.found, "clip")}`
      + (query.search || query.filters.length ? ` of ${count(this.page.state.n_clips)}` : "");
    document.querySelector("#page-where").textContent = this.found ? `${count(query.offset + 1)} to ${count(last)} of ${count(this.found)}` : "";
    document.querySelector("#page-back").disabled = query.offset === 0;
    document.querySelector("#page-on").disabled = last >= this.found;
    document.querySelector(".pages").hidden = this.found <= query.limit;
  }
}
