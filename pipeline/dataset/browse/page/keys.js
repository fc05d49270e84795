// The keyboard. Keys that a focused control needs itself are left to it.

import { clipTrack } from "./player.js";

const STEP_S = 2;

export function listen(page) {
  document.querySelector("#show-keys").addEventListener("click", () => document.querySelector("#keys").showModal());
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = event.target;
    if (target.matches("input:not([type=range]), select, textarea")) {
      if (event.key === "Escape") target.blur();
      return;
    }
    if (target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
    const action = actionOf(event.key, page, target);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function actionOf(key, page, target) {
  const { player, list_: list } = page;
  const chosen = list.clips.find(each => each.clip_id === page.chosen) ?? page.detail.clip;
  if (key === " ") {
    // Space on a button presses that button, but for those that open a clip of the list.
    if (target.matches("button:not(.open), a, summary")) return null;
    return () => player.toggle(player.playing || !chosen ? player.track ?? undefined : clipTrack(chosen));
  }
  if (key >= "0" && key <= "5" && chosen) return () => page.rate(chosen.clip_id, key === "0" ? null : Number(key));
  switch (key) {
    case "j": case "ArrowDown": return () => step(page, 1);
    case "k": case "ArrowUp": return () => step(page, -1);
    case "ArrowRight": return player.audio ? () => player.seek(player.audio.currentTime + STEP_S) : null;
    case "ArrowLeft": return player.audio ? () => player.seek(player.audio.currentTime - STEP_S) : null;
    case "a": case "b": return chosen ? () => player.put(key.toUpperCase(), clipTrack(chosen)) : null;
    case "x": return () => player.switchSides();
    case "l": return () => player.setLoop(!player.loop);
    case "m": return () => player.setMatched(!player.matched);
    case "/": return () => document.querySelector("#search").focus();
    case "?": return () => document.querySelector("#keys").showModal();
    case "Escape": return () => page.detail.close();
    default: return null;
  }
}

async function step(page, by) {
  let next = page.list_.neighbour(by);
  if (!next && page.list_.turn(by)) {
    await page.answered;
    next = by > 0 ? page.list_.clips[0] : page.list_.clips.at(-1);
  }
  if (!next) return;
  const goesOn = page.player.playing;
  page.choose(next, { open: page.detail.isOpen });
  const row = page.list_.row(next.clip_id);
  row?.scrollIntoView({ block: "nearest" });
  if (!page.detail.isOpen || innerWidth >= 1000) row?.querySelector(".open").focus({ preventScroll: true });
  if (goesOn) page.player.play(clipTrack(next));
}
