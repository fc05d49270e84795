// Search, sort, filters and the choice of columns.

import { ask } from "./api.js";
import { debounced, el, shown } from "./format.js";

const OPERATORS = {
  text: { contains: "contains", lacks: "does not contain", is: "is", is_not: "is not", empty: "is empty", filled: "is not empty" },
  number: { at_least: "at least", at_most: "at most", is: "equals", is_not: "differs from", empty: "is empty", filled: "is not empty" },
  time: { at_least: "from", at_most: "until", empty: "is empty", filled: "is not empty" },
  flag: { is: "is", empty: "is empty", filled: "is not empty" },
};
const GROUPS = { clip: "Clip", extra: "Columns of the manifest", measure: "Measures", provenance: "How it was made" };
const NEEDS_NO_VALUE = ["empty", "filled"];
const byId = id => document.getElementById(id);

export function grouped(columns, make) {
  return Object.entries(GROUPS).map(([group, title]) => {
    const inside = columns.filter(column => column.group === group);
    return inside.length ? make(title, inside) : null;
  }).filter(Boolean);
}

const options = columns => grouped(columns, (title, inside) =>
  el("optgroup", { label: title }, ...inside.map(column => el("option", { value: column.name }, column.label))));

export class QueryBar {
  constructor(page) {
    this.page = page;
    const later = debounced(() => page.ask({ search: byId("search").value, offset: 0 }), 200);
    byId("search").addEventListener("input", later);
    byId("query").addEventListener("submit", event => event.preventDefault());
    byId("sort").addEventListener("change", () => page.ask({ sort: byId("sort").value, offset: 0 }));
    byId("direction").addEventListener("click", () => page.ask({ descending: !page.query.descending, offset: 0 }));
    byId("add-filter").addEventListener("click", () => this.#openFilter());
    byId("filter-column").addEventListener("change", () => this.#filterColumn());
    byId("filter-op").addEventListener("change", () => this.#filterOp());
    byId("filter-value").addEventListener("input", debounced(() => this.#suggest(), 150));
    byId("filter").addEventListener("close", () => this.#closeFilter());
    byId("choose-columns").addEventListener("click", () => byId("columns").showModal());
    byId("columns").addEventListener("close", () => page.ask({}));
  }

  // The columns are known, or there are more of them.
  know(columns) {
    byId("sort").replaceChildren(...options(columns));
    byId("filter-column").replaceChildren(...options(columns));
    byId("column-list").replaceChildren(...grouped(columns, (title, inside) =>
      el("fieldset", {}, el("legend", {}, title), ...inside.map(column => {
        const box = el("input", { type: "checkbox", value: column.name });
        box.checked = this.page.listed.includes(column.name);
        box.addEventListener("change", () => this.page.list(column.name, box.checked));
        return el("label", { title: column.text }, box, ` ${column.label}`);
      }))));
    this.show();
  }

  show() {
    const { query, columns } = this.page;
    if (document.activeElement !== byId("search")) byId("search").value = query.search;
    byId("sort").value = query.sort;
    byId("direction").textContent = query.descending ? "↓" : "↑";
    byId("direction").setAttribute("aria-label", `Order: ${query.descending ? "descending" : "ascending"}`);
    byId("filters").hidden = !query.filters.length;
    byId("filters").replaceChildren(...query.filters.map((filter, at) => {
      const column = columns.find(each => each.name === filter.column);
      const words = OPERATORS[column?.kind ?? "text"][filter.op] ?? filter.op;
      const text = `${column?.label ?? filter.column} ${words}${filter.value === null ? "" : ` ${filter.value}`}`;
      const drop = () => this.page.ask({ filters: query.filters.filter((_, other) => other !== at), offset: 0 });
      return el("li", { class: "chip" }, text, " ",
        el("button", { type: "button", "aria-label": `Remove the filter: ${text}`, onclick: drop }, "×"));
    }));
  }

  get #column() { return this.page.columns.find(each => each.name === byId("filter-column").value); }

  #openFilter() {
    byId("filter-value").value = "";
    this.#filterColumn();
    byId("filter").returnValue = "";
    byId("filter").showModal();
  }

  #filterColumn() {
    const column = this.#column;
    if (!column) return;
    byId("filter-op").replaceChildren(...Object.entries(OPERATORS[column.kind]).map(([op, words]) => el("option", { value: op }, words)));
    byId("filter-value").placeholder = { number: column.unit || "a number", time: "2026-01-31T12:00 (UTC)", flag: "true or false", text: "" }[column.kind];
    byId("filter-help").textContent = column.text;
    this.#filterOp();
    this.#suggest();
  }

  #filterOp() {
    const needless = NEEDS_NO_VALUE.includes(byId("filter-op").value);
    byId("filter-value-label").hidden = needless;
    byId("filter-value").required = !needless;
  }

  async #suggest() {
    const column = this.#column;
    if (!column || column.kind === "time") return;
    const prefix = column.kind === "text" ? byId("filter-value").value : "";
    const found = await ask("/api/values", { column: column.name, prefix }).catch(() => []);
    if (this.#column !== column) return;
    byId("filter-values").replaceChildren(...found.slice(0, 30).map(each =>
      el("option", { value: each.value, label: `${shown(each.value, column)} (${each.count})` })));
  }

  #closeFilter() {
    const dialog = byId("filter");
    if (dialog.returnValue !== "add") return;
    const op = byId("filter-op").value;
    const value = NEEDS_NO_VALUE.includes(op) ? null : byId("filter-value").value;
    const filter = { column: byId("filter-column").value, op, value };
    this.page.ask({ filters: [...this.page.query.filters, filter], offset: 0 });
  }
}
