// The page: its state, and what happens when that changes.

import * as api from "./api.js";
import { Detail } from "./detail.js";
import { Failed } from "./failed.js";
import { count, debounced, things } from "./format.js";
import { listen } from "./keys.js";
import { List } from "./list.js";
import { Player } from "./player.js";
import { QueryBar } from "./query.js";

const POLL_MS = 2000;
const LISTED = "musicgen-browse-columns";
const byId = id => document.getElementById(id);

class Page {
  constructor(about) {
    this.about = about;
    this.state = about;
    this.seen = { version: about.version, n_columns: about.n_columns, shown_version: about.shown_version };
    this.columns = about.columns;
    this.listed = JSON.parse(localStorage.getItem(LISTED) ?? "null") ?? about.columns.filter(each => each.group === "extra").slice(0, 2).map(each => each.name);
    this.query = { search: "", filters: [], sort: "created_at", descending: true, offset: 0, limit: 50, ...fromAddress() };
    this.chosen = null;
    this.answered = Promise.resolve();
    this.player = new Player(byId("player"));
    this.list_ = new List(this);
    this.detail = new Detail(this);
    this.bar = new QueryBar(this);
    this.failed = new Failed(this);
    this.showDetail = debounced((clipId, options) => this.detail.show(clipId, options), 120);
    this.player.addEventListener("finished", () => this.list_.mark());
    byId("show-clips").addEventListener("click", () => this.view("clips"));
    byId("show-failed").addEventListener("click", () => this.view("failed"));
    listen(this);
    this.bar.know(this.columns);
    this.tell(about);
  }

  // Asks for clips; what is not given stays as it was.
  ask(changes) {
    Object.assign(this.query, changes);
    toAddress(this.query);
    this.bar.show();
    this.answered = this.#load();
    return this.answered;
  }

  async #load() {
    const asked = this.asked = {};
    const query = JSON.stringify({ ...this.query, columns: this.listed });
    try {
      const found = await api.ask("/api/clips", { query });
      if (this.asked !== asked) return;
      this.tell(found);
      this.seen.version = found.version;
      this.list_.show(found.clips, found.n_found);
      this.trouble(null);
    } catch (error) {
      if (this.asked === asked) this.trouble(error);
    }
  }

  choose(clip, { open = true } = {}) {
    this.chosen = clip.clip_id;
    this.list_.mark();
    this.showDetail(clip.clip_id, { open });
  }

  async rate(clipId, rating) {
    try {
      this.tell(await api.rate(clipId, rating));
      this.list_.rated(clipId, rating);
      this.detail.rated(clipId, rating);
      this.trouble(null);
    } catch (error) {
      this.trouble(error);
    }
  }

  list(name, isListed) {
    this.listed = isListed ? [...this.listed, name] : this.listed.filter(each => each !== name);
    localStorage.setItem(LISTED, JSON.stringify(this.listed));
  }

  view(name) {
    byId("clips").hidden = name !== "clips";
    byId("failed").hidden = name !== "failed";
    byId("show-clips").setAttribute("aria-pressed", String(name === "clips"));
    byId("show-failed").setAttribute("aria-pressed", String(name === "failed"));
    if (name === "failed") {
      this.detail.close();
      this.failed.load();
    }
  }

  trouble(error) {
    const text = error?.message ?? this.state.problem ?? "";
    byId("problem").textContent = text;
    byId("problem").hidden = !text;
  }

  // What the server says of the output as a whole.
  tell(state) {
    const was = this.state;
    this.state = { ...was, ...state };
    const now = this.state, run = now.run ?? {};
    const parts = now.is_loading && now.n_listed ? ` · reading part ${count(now.n_parts)} of ${count(now.n_listed)}` : "";
    const going = run.state === "running" ? " · a run is making more" : "";
    byId("state").textContent = `${things(now.n_clips, "clip")}${parts}${going}`;
    byId("show-failed").textContent = `Failed ${count(now.n_failed)}`;
    byId("show-clips").textContent = "Clips";
    byId("n-rated").textContent = `(${count(now.n_rated)})`;
    byId("export").setAttribute("aria-label", `Export ratings (${count(now.n_rated)}) as CSV`);
    byId("export").title = `Ratings are kept in ${now.ratings_in}` + (now.ratings_elsewhere ? ` (the output can't be written to: ${now.ratings_elsewhere})` : "");
  }

  // Asks whether there is more, and shows it.
  async look() {
    const { seen, state: { problem } } = this;
    const now = await api.ask("/api/state").catch(error => ({ error }));
    if (now.error) {
      this.trouble(now.error instanceof api.ApiError ? now.error : new Error("The server has ended: start `musicgen-batch browse` again."));
      return;
    }
    this.tell(now);
    const hasColumns = now.n_columns !== seen.n_columns;
    if (hasColumns) {
      seen.n_columns = now.n_columns;
      this.columns = (await api.ask("/api/about")).columns;
      if (!localStorage.getItem(LISTED)) this.listed = this.columns.filter(each => each.group === "extra").slice(0, 2).map(each => each.name);
      this.bar.know(this.columns);
    }
    if (now.version !== seen.version || hasColumns) await this.ask({});
    if (now.shown_version !== seen.shown_version && !byId("failed").hidden) this.failed.load(this.failed.offset);
    seen.shown_version = now.shown_version;
    if (now.problem !== problem) this.trouble(null);
  }
}

function fromAddress() {
  try {
    return JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
  } catch {
    return {};
  }
}

function toAddress(query) {
  const { search, filters, sort, descending, offset } = query;
  const kept = { search, filters, sort, descending, offset };
  history.replaceState(null, "", `/#${encodeURIComponent(JSON.stringify(kept))}`);
}

async function start() {
  let about;
  try {
    about = await api.ask("/api/about");
  } catch (error) {
    byId("state").textContent = "";
    byId("problem").textContent = error.message;
    byId("problem").hidden = false;
    return;
  }
  document.title = `${about.name}: clips`;
  byId("name").textContent = about.name;
  const page = new Page(about);
  await page.ask({});
  document.documentElement.dataset.ready = "yes";
  for (;;) {
    await new Promise(done => setTimeout(done, page.state.is_loading ? POLL_MS / 4 : POLL_MS));
    if (!document.hidden) await page.look();
  }
}

start();
