// What scripts add: keys, the theme, and a timeline that grows. Pages work without.
"use strict";

const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent);

// -- keys -------------------------------------------------------------------------------------

let chosen = ""; // id of the row that j and k are at: it outlives a refresh of the list
let before = ""; // the key before this one, of a pair such as "g r"

function choose(row) {
  document.querySelector("[data-row].chosen")?.classList.remove("chosen");
  if (!row) return;
  chosen = row.id;
  row.classList.add("chosen");
  row.scrollIntoView({ block: "nearest" });
  const opens = row.querySelector("[data-open]");
  opens?.focus({ preventScroll: true });
}

function step(by) {
  const all = rows();
  if (!all.length) return;
  const at = all.findIndex((row) => row.classList.contains("chosen"));
  const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by;
  choose(all[Math.min(Math.max(next, 0), all.length - 1)]);
}

function unfold() {
  const all = [...document.querySelectorAll(".item > details")];
  const open = all.some((each) => !each.open);
  for (const each of all) each.open = open;
}

function turn() {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("torpor-theme", root.dataset.theme); } catch { /* for this page */ }
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  e: unfold,
  t: turn,
  G: () => choose(rows().at(-1)),
  "/": () => (document.querySelector("[data-search]") ?? { focus: () => location.assign("/ui/runs") }).focus(),
  "?": () => document.getElementById("keys")?.showModal(),
};

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.matches?.("[data-submit]")) {
    target.form.requestSubmit();
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches?.("input, textarea, select, dialog *")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const pair = before + event.key;
  before = event.key === "g" ? "g" : "";
  const link = pair.length === 2 && document.querySelector(`a[data-key="${CSS.escape(pair)}"]`);
  if (link) {
    event.preventDefault();
    link.click();
  } else if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

// On a phone, where not all pages' names have room.
document.querySelector(".top nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });

// What is listed beside a text is put into it where one writes.
for (const button of document.querySelectorAll("[data-insert]")) {
  button.addEventListener("click", () => {
    const field = document.getElementById("sql");
    const before = field.value.slice(0, field.selectionStart);
    const gap = before && !/[\s(,.]$/.test(before) ? " " : "";
    field.focus();
    field.setRangeText(gap + button.dataset.insert, field.selectionStart, field.selectionEnd, "end");
  });
}

document.getElementById("theme")?.addEventListener("click", turn);
document.getElementById("keys-open")?.addEventListener("click", KEYS["?"]);
for (const box of document.querySelectorAll(".filters input[type=checkbox], .filters select")) {
  box.addEventListener("change", () => box.form.requestSubmit());
}
document.addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.querySelector("details.sure[open]");
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
});
document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.sure[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

// A list that was fetched anew keeps its place, and nobody's typing is taken away.
document.addEventListener("htmx:afterSwap", () => {
  const row = chosen && document.getElementById(chosen);
  if (row && !document.querySelector("[data-row].chosen")) {
    row.classList.add("chosen");
    if (document.activeElement === document.body) row.querySelector("[data-open]")?.focus({ preventScroll: true });
  }
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const above = event.detail.target;
  if (above.id !== "above") return;
  const typing = document.activeElement?.matches("input, textarea") && above.contains(document.activeElement);
  if (typing || above.querySelector("details.sure[open], .wait details[open]")) {
    event.detail.shouldSwap = false;
    above.dataset.stale = "1";
  }
});
for (const leaves of ["focusout", "toggle"]) {
  document.addEventListener(leaves, () => setTimeout(() => {
    const above = document.getElementById("above");
    if (!above?.dataset.stale) return;
    delete above.dataset.stale;
    window.htmx?.trigger(above, "torpor:state");
  }), true);
}

// -- a timeline that grows --------------------------------------------------------------------

const items = document.getElementById("items");

function put(html) {
  const parsed = document.createElement("template");
  parsed.innerHTML = html;
  for (const fresh of [...parsed.content.children]) {
    const there = document.getElementById(fresh.id);
    if (there) {
      fresh.querySelector("details").open = there.querySelector("details").open;
      fresh.classList.toggle("chosen", there.classList.contains("chosen"));
      const focused = there.contains(document.activeElement);
      there.replaceWith(fresh);
      if (focused) fresh.querySelector("summary").focus({ preventScroll: true });
    } else {
      fresh.classList.add("fresh");
      items.append(fresh);
    }
    window.htmx?.process(fresh);
  }
}

if (items?.dataset.live) {
  const status = document.getElementById("live-status");
  const source = new EventSource(items.dataset.live);
  const refresh = () => window.htmx?.trigger("#above", "torpor:state");
  source.addEventListener("item", (event) => put(JSON.parse(event.data)));
  source.addEventListener("state", refresh);
  source.addEventListener("end", (event) => {
    source.close();
    items.classList.remove("live");
    status.textContent = `The run is ${JSON.parse(event.data).state}.`;
    refresh();
  });
  source.addEventListener("open", () => items.classList.add("live"));
  source.addEventListener("error", () => items.classList.remove("live"));
}
