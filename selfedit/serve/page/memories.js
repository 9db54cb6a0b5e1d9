/** Memories: the list, the page of one, and what changes them. */
import { api } from "./api.js";
import { sideBySide } from "./diff.js";
import { byId, bytes, date, el, percent, sourceName, table, toast } from "./dom.js";

const SHOWN = 100;
const EDITS = 10;
const STATES = { active: "in force", waiting: "waits for approval", text: "only text", off: "not in force" };
let memories = [];
let shown = SHOWN;
let reload = () => {};

/** Makes the controls work; `onChange` shows the present view again. */
export function setUp(onChange) {
  reload = onChange;
  byId("filter").addEventListener("input", () => { shown = SHOWN; list(); });
  byId("undo").addEventListener("click", undo);
  byId("confirm-no").addEventListener("click", () => byId("confirm").close("no"));
  byId("confirm-yes").addEventListener("click", () => byId("confirm").close("yes"));
}

/** Fetches all memories, each with its state. */
async function load() {
  const [{ memories: records }, { versions }] = await Promise.all(
    [api("GET", "/v1/memories?all=true"), api("GET", "/v1/versions")]);
  const last = new Map(versions.flatMap((version) => (version.ids ?? []).map((id) => [id, version.action])));
  memories = records.map((memory) => ({ ...memory, state: state(memory, last.get(memory.id)) }))
    .sort((a, b) => (a.created < b.created ? 1 : -1));
  byId("undo").disabled = versions.length === 0;
}

/** One of the keys of STATES; `action` is the last change of this memory. */
function state(memory, action) {
  if (memory.active) return memory.adapter_hash ? "active" : "text";
  return action === "quarantine" ? "waiting" : "off";
}

/** The title, or the source of a memory without one. */
const name = (memory) => memory?.title || memory?.source || memory?.id || "a memory";

/** How many judging questions were answered correctly before and after. */
const correct = ({ accuracy_before, accuracy_after }) =>
  (accuracy_after === null ? "–" : `${percent(accuracy_before)} → ${percent(accuracy_after)}`);

const badge = (state) => el("span", { class: `badge ${state}` }, STATES[state]);

/** Shows the list of memories. */
export async function showList() {
  await load();
  list();
}

function list() {
  const words = byId("filter").value.toLowerCase().split(/\s+/);
  const text = (memory) => `${memory.title} ${memory.source} ${STATES[memory.state]}`.toLowerCase();
  const fit = memories.filter((memory) => words.every((word) => text(memory).includes(word)));
  byId("count").textContent = `${fit.length < memories.length ? `${fit.length} of ` : ""}${memories.length} memories`;
  const rows = fit.slice(0, shown).map((memory) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: `#memories/${memory.id}` }, name(memory)),
      el("span", { class: "source" }, memory.source)),
    el("td", {}, date(memory.created)),
    el("td", { "data-name": "Correct" }, correct(memory)),
    el("td", {}, badge(memory.state))));
  byId("memory-list").replaceChildren(...[
    rows.length ? table("Memories", ["Title and source", "Learned", "Correct before → after", "State"], rows)
      : el("p", { class: "quiet" }, memories.length ? "No memory fits the filter." : "No memories yet."),
    !memories.length && el("p", {}, el("a", { href: "#learn" }, "Learn a document")),
    fit.length > shown && el("button", { click: () => { shown += SHOWN; list(); } }, "Show more"),
  ].filter(Boolean));
}

/** Shows the page of one memory. */
export async function showOne(id) {
  const [memory] = await Promise.all([api("GET", `/v1/memories/${encodeURIComponent(id)}`), load()]);
  const now = memories.find((other) => other.id === memory.id)?.state ?? "off";
  const { scores = {}, studied = [] } = memory;
  const reasons = scores.quarantined ?? [];
  byId("memory-page").replaceChildren(...[
    el("h1", { tabindex: "-1" }, name(memory)),
    el("p", {}, badge(now), " ", sourceName(memory.source)),
    reasons.length > 0 && el("div", { class: "note" },
      el("p", {}, now === "waiting" ? "It waits for your approval because its text" : "It was held back before, because its text"),
      el("ul", {}, reasons.map((reason) => el("li", {}, reason)))),
    el("div", { class: "row" },
      memory.active
        ? el("button", { click: () => change("POST", memory, "/disable", "is out of force") }, "Take out of force")
        : el("button", { class: "primary", click: () => change("POST", memory, "/approve", "is in force") }, "Approve"),
      el("button", { class: "danger", click: () => forget(memory) }, "Forget …")),
    el("dl", { class: "facts" }, [
      ["Learned", date(memory.created, { dateStyle: "medium", timeStyle: "short" })],
      ["Correct", correct(memory)],
      ["General change", memory.general_change === null ? "–" : `${memory.general_change.toFixed(3)} nats per token`],
      ["Size", memory.adapter_hash ? bytes(memory.size_bytes) : "no weights, only text"],
      ["Model", memory.model],
      ["Id", memory.id],
    ].map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value)))),
    el("h2", {}, "Passage"),
    el("div", { class: "passage" }, memory.passage),
    ...questions(scores),
    ...(studied.length ? [el("h2", {}, "Studied edits"), edits(studied, EDITS)] : []),
    ...versions(memory),
  ].filter(Boolean));
}

/** The judging questions with what was right before and after. */
function questions({ questions = [], before = {}, after = {} }) {
  if (!questions.length) return [];
  const verdict = (right) => (typeof right !== "boolean" ? "–"
    : el("span", { class: right ? "right" : "wrong" }, right ? "right" : "wrong"));
  const rows = questions.map((one, i) => el("tr", {},
    el("th", { scope: "row" }, one.question),
    el("td", { "data-name": "Expected" }, (one.answers ?? []).join(" / ")),
    el("td", { "data-name": "Before" }, verdict(before.correct?.[i])),
    el("td", { "data-name": "After" }, verdict(after.correct?.[i]))));
  return [el("h2", {}, "Judging questions"),
    table("Questions that were not studied", ["Question", "Expected", "Before", "After"], rows)];
}

/** The studied texts by style, `limit` of them. */
function edits(studied, limit) {
  const some = studied.slice(0, limit);
  const box = el("div", { tabindex: "-1" }, [...new Set(some.map((edit) => edit.style))].map((style) => [
    el("h3", {}, style.replaceAll("_", " ")),
    el("ul", { class: "edits" }, some.filter((edit) => edit.style === style).map(({ prompt, text }) =>
      el("li", {}, prompt && [el("strong", {}, prompt), " "], text))),
  ]));
  if (studied.length > limit) {
    box.append(el("button", { click: () => {
      const all = edits(studied, Infinity);
      box.replaceWith(all);
      all.focus({ preventScroll: true });
    } }, `Show all ${studied.length}`));
  }
  return box;
}

/** The other memories of the same source, each to be compared with this one. */
function versions(memory) {
  const others = memory.same_source ?? [];
  if (!others.length) return [];
  const result = el("div", { "aria-live": "polite" });
  const choice = el("select", {}, others.map((id) => {
    const other = memories.find((one) => one.id === id);
    return el("option", { value: id }, other ? `${name(other)}, ${other.created.slice(0, 10)}, ${STATES[other.state]}` : id);
  }));
  choice.value = others.at(-1);
  const compare = async (event) => {
    event.preventDefault();
    try {
      const other = await api("GET", `/v1/memories/${encodeURIComponent(choice.value)}`);
      const [older, newer] = other.created < memory.created ? [other, memory] : [memory, other];
      result.replaceChildren(difference(older, newer, memory.id));
    } catch (error) {
      result.replaceChildren(el("p", { class: "error" }, error.message));
    }
  };
  return [el("h2", {}, "Other memories of this source"),
    el("form", { class: "row", submit: compare }, el("label", { class: "grow" }, "Compare with ", choice),
      el("button", {}, "Show the difference")), result];
}

/** Two passages side by side, the older one left. */
function difference(older, newer, thisId) {
  const side = (parts, tag) => el("td", {}, parts.map((part) => (part.changed ? el(tag, {}, part.text) : part.text)));
  const title = (memory) => [memory.id === thisId ? "This memory, " : `${name(memory)}, `, date(memory.created)];
  const rows = sideBySide(older.passage, newer.passage)
    .map(([left, right]) => el("tr", {}, side(left, "del"), side(right, "ins")));
  const shown = table("Differences between the two passages", [title(older), title(newer)], rows);
  shown.classList.add("difference");
  return shown;
}

/** Changes a memory and says so, with the offer to undo it. */
async function change(method, memory, path, done) {
  try {
    await api(method, `/v1/memories/${memory.id}${path}`);
    toast(`“${name(memory)}” ${done}.`, method === "DELETE" ? null : undo);
  } catch (error) {
    toast(error.message);
    return false;
  }
  if (method !== "DELETE") {
    await reload();
    byId("memory-page").querySelector("button")?.focus(); // the button that was pressed is gone
  }
  return true;
}

/** Asks for confirmation, then deletes a memory for good. */
function forget(memory) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent =
    `The weights, the text and the studied edits of “${name(memory)}” are deleted for good. This cannot be undone.`;
  dialog.returnValue = "";
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue === "yes" && (await change("DELETE", memory, "", "is forgotten"))) location.hash = "#memories";
  }, { once: true });
  dialog.showModal();
}

/** Takes the last change back, and names the memories that it concerned. */
async function undo() {
  try {
    await load();
    const before = new Set(memories.filter((memory) => memory.active).map((memory) => memory.id));
    const after = new Set((await api("POST", "/v1/rollback", { to: null })).active);
    const changed = (a, b, text) => {
      const names = memories.filter(({ id }) => a.has(id) && !b.has(id)).map((memory) => `“${name(memory)}”`);
      const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
      return names.length ? [`${names.slice(0, 3).join(", ")}${more} ${text}`] : [];
    };
    const changes = [...changed(after, before, "in force again"), ...changed(before, after, "out of force")];
    toast(`Undone: ${changes.join("; ") || "the same memories are in force as before"}.`);
  } catch (error) {
    toast(error.message);
  }
  await reload();
}
