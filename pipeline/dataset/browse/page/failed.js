// The dead letters that stand: which rows could not be made, and why.

import { ask } from "./api.js";
import { count, debounced, el, things, withCode } from "./format.js";

export class Failed {
  constructor(page) {
    this.page = page;
    this.root = document.querySelector("#failed");
    this.search = el("input", { type: "search", "aria-label": "Search in rows that failed", placeholder: "Search in reasons" });
    this.search.addEventListener("input", debounced(() => this.load(), 200));
    this.list = el("div", {});
    this.root.append(el("h2", { class: "hidden" }, "Rows that failed"), this.search, this.list);
    this.offset = 0;
  }

  async load(offset = 0) {
    this.offset = offset;
    const found = await ask("/api/failed", { search: this.search.value, offset }).catch(error => ({ error }));
    if (found.error) return this.page.trouble(found.error);
    const { letters, n_found } = found;
    if (!n_found) {
      const none = this.search.value ? "No reason fits." : "Every row that was tried was made.";
      return this.list.replaceChildren(el("p", { class: "empty" }, none));
    }
    const last = offset + letters.length;
    const more = last < n_found ? el("button", { type: "button", onclick: () => this.load(last) }, "Next") : null;
    const back = offset ? el("button", { type: "button", onclick: () => this.load(Math.max(0, offset - 100)) }, "Previous") : null;
    this.list.replaceChildren(
      el("p", { class: "soft" }, `${things(n_found, "row")} could not be made. Mend the cause, then run `, el("code", {}, "musicgen-batch retry"), "."),
      el("ul", { class: "letters" }, ...letters.map(letter => this.#letter(letter))),
      n_found > letters.length ? el("nav", { class: "pages", "aria-label": "Pages of rows that failed" }, back,
        el("span", {}, `${count(offset + 1)} to ${count(last)} of ${count(n_found)}`), more) : "");
  }

  #letter(letter) {
    const name = letter.id ?? `${letter.source} row ${letter.row}`;
    const take = letter.take === null ? "" : ` · take ${letter.take}`;
    return el("li", {},
      el("h3", {}, name, el("span", { class: "note" }, take)),
      el("p", {}, ...withCode(letter.message)),
      el("p", { class: "note" }, el("span", { class: "chip bad" }, letter.error_class), " ",
        el("span", { class: "chip" }, letter.stage), ` row ${count(letter.row)} of ${letter.source} · tried ${letter.attempts} ×`));
  }
}
