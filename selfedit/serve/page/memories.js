/** Memories: the list, the page of one, and what changes them. */
import { api } from "./api.js";
import { byId, bytes, date, el, facts, percent, sourceName, table, toast } from "./dom.js";

const PAGE = 100;
const EDITS = 10;
const STATES = { active: "in force", waiting: "waits for approval", text: "only text", off: "not in force" };
let memories = [];
let shown = PAGE;
let reload;

/** Makes the controls work; `onChange` shows the present view again. */
export function setUp(onChange) {
  reload = onChange;
  byId("filter").addEventListener("input", () => { shown = PAGE; list(); });
  byId("undo").addEventListener("click", undo);
  for (const answer of ["no", "yes"]) {
    byId(`confirm-${answer}`).addEventListener("click", () => byId("confirm").close(answer));
  }
}

/** Fetches all memories, the newest first, each with its state. */
async function load() {
  const requests = [api("GET", "/v1/memories?all=true"), api("GET", "/v1/versions")];
  const [{ memories: records }, { versions }] = await Promise.all(requests);
  const last = new Map(); // memory → what was done last with it
  for (const version of versions) for (const id of version.ids ?? version.memories ?? []) last.set(id, version.action);
  const state = (memory) => (memory.active ? (memory.adapter_hash || memory.shared_adapter ? "active" : "text")
    : last.get(memory.id) === "quarantine" ? "waiting" : "off");
  memories = records.map((memory) => ({ ...memory, state: state(memory) }))
    .sort((a, b) => (a.created < b.created ? 1 : -1));
  byId("undo").disabled = versions.length === 0;
}

const name = (memory) => memory.title || memory.source || memory.id;
const badge = (state) => el("span", { class: `badge ${state}` }, STATES[state]);

/** The share of judging questions that were answered correctly before and after. */
const correct = ({ accuracy_before, accuracy_after }) =>
  (accuracy_after === null ? "–" : `${percent(accuracy_before)} → ${percent(accuracy_after)}`);

/** Shows the list of memories. */
export async function showList() {
  await load();
  list();
}

/** Shows the memories that fit the filter. */
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
  byId("memory-list").replaceChildren(
    rows.length ? table("Memories", ["Title and source", "Learned", "Correct before → after", "State"], rows)
      : memories.length ? el("p", { class: "quiet" }, "No memory fits the filter.")
      : el("p", {}, "No memories yet. ", el("a", { href: "#learn" }, "Learn a document")),
    fit.length > shown ? el("button", { click: () => { shown += PAGE; list(); } }, "Show more") : "");
}

/** Shows the page of one memory. */
export async function showOne(id) {
  const [memory] = await Promise.all([api("GET", `/v1/memories/${encodeURIComponent(id)}`), load()]);
  const { scores, studied, general_change: change, share_recited: recited } = memory;
  const state = memories.find((other) => other.id === memory.id)?.state ?? "off";
  const act = (path, done) => () => changed("POST", memory, path, done);
  byId("memory-page").replaceChildren(...[
    el("h1", { tabindex: "-1" }, name(memory)),
    el("p", {}, badge(state), " ", sourceName(memory.source)),
    ...reasons(scores.quarantined, state),
    el("div", { class: "row" },
      memory.active ? el("button", { click: act("/disable", "is out of force") }, "Take out of force")
        : el("button", { class: "primary", click: act("/approve", "is in force") }, "Approve"),
      el("button", { class: "danger", click: () => forget(memory) }, "Forget …")),
    facts([
      ["Learned", date(memory.created, { dateStyle: "medium", timeStyle: "short" })],
      ...(typeof recited === "number" ? [["Recites", `${percent(recited)} of the passage`]] : []),
      ["Correct", correct(memory)],
      ["General change", typeof change === "number" ? `${change.toFixed(3)} nats per token` : "–"],
      ["Size", memory.adapter_hash ? bytes(memory.size_bytes)
        : memory.shared_adapter ? `shares adapter ${memory.shared_adapter}` : "no weights, only text"],
      ["Model", memory.model],
      ["Id", memory.id],
    ]),
    el("h2", {}, "Passage"),
    el("div", { class: "passage" }, memory.passage),
    ...questions(scores),
    ...(studied.length ? [el("h2", {}, "Studied edits"), edits(studied, EDITS)] : []),
    ...versions(memory),
  ]);
}

/** Why a memory is, or was, in quarantine. */
function reasons(found = [], state) {
  if (!found.length) return [];
  const since = `${state === "waiting" ? "It waits for your approval" : "It was held back"} because its text`;
  return [el("div", { class: "note" }, el("p", {}, since), el("ul", {}, found.map((reason) => el("li", {}, reason))))];
}

/** The judging questions with what was right before and after. */
function questions({ questions = [], before = {}, after = {} }) {
  if (!questions.length) return [];
  const verdict = (right) => (right === true || right === false
    ? el("span", { class: right ? "right" : "wrong" }, right ? "right" : "wrong") : "–");
  const rows = questions.map((one, i) => el("tr", {},
    el("th", { scope: "row" }, one.question),
    el("td", { "data-name": "Expected" }, one.answers.join(" / ")),
    el("td", { "data-name": "Before" }, verdict(before.correct?.[i])),
    el("td", { "data-name": "After" }, verdict(after.correct?.[i]))));
  return [el("h2", {}, "Judging questions"),
    table("Questions that were not studied", ["Question", "Expected", "Before", "After"], rows)];
}

/** The first `limit` studied texts by style, and a button for all. */
function edits(studied, limit) {
  const some = studied.slice(0, limit);
  const showAll = () => {
    const all = edits(studied, studied.length);
    box.replaceWith(all);
    all.focus({ preventScroll: true });
  };
  const box = el("div", { tabindex: "-1" }, [...new Set(some.map((edit) => edit.style))].map((style) => [
    el("h3", {}, style.replaceAll("_", " ")),
    el("ul", { class: "edits" }, some.filter((edit) => edit.style === style)
      .map(({ prompt, text }) => el("li", {}, prompt && [el("strong", {}, prompt), " "], text))),
  ]), studied.length > limit && el("button", { click: showAll }, `Show all ${studied.length}`));
  return box;
}

/** A form that compares a memory with the others of its source. */
function versions(memory) {
  if (!memory.same_source.length) return [];
  const choice = el("select", {}, memory.same_source.map((id) => {
    const other = memories.find((one) => one.id === id);
    const text = other ? `${name(other)}, ${other.created.slice(0, 10)}, ${STATES[other.state]}` : id;
    return el("option", { value: id }, text);
  }));
  choice.value = memory.same_source.at(-1);
  const result = el("div", { "aria-live": "polite" });
  const submit = async (event) => {
    event.preventDefault();
    try {
      const other = memories.find((one) => one.id === choice.value);
      const [older, newer] = !other || other.created < memory.created ? [choice.value, memory.id] : [memory.id, choice.value];
      result.replaceChildren(difference(await api("GET", `/v1/memories/${older}/difference/${newer}`), memory));
    } catch (error) {
      result.replaceChildren(el("p", { class: "error" }, error.message));
    }
  };
  return [el("h2", {}, "Other memories of this source"), el("form", { class: "row", submit },
    el("label", { class: "grow" }, "Compare with ", choice), el("button", {}, "Show the difference")), result];
}

/** The passages of two memories side by side, the older one on the left. */
function difference({ memories: [older, newer], passage }, current) {
  const title = (memory) => [memory.id === current.id ? "This memory" : name(memory), ", ", date(memory.created)];
  const side = (parts, tag) => el("td", {}, parts.map((part) => (part.changed ? el(tag, {}, part.text) : part.text)));
  const rows = passage.map(([left, right]) => el("tr", {}, side(left, "del"), side(right, "ins")));
  const result = table("Differences between the two passages", [title(older), title(newer)], rows);
  result.classList.add("difference");
  return result;
}

/** Changes a memory and says so, with the offer to undo it; whether the server did it. */
async function changed(method, memory, path, done) {
  try {
    await api(method, `/v1/memories/${memory.id}${path}`);
  } catch (error) {
    toast(error.message);
    return false;
  }
  const deleted = method === "DELETE";
  toast(`“${name(memory)}” ${done}.`, deleted ? null : undo);
  if (deleted) return true;
  await reload();
  byId("memory-page").querySelector("button")?.focus(); // the button that was pressed is gone
  return true;
}

/** Asks for confirmation, then deletes a memory for good. */
function forget(memory) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent =
    `The weights, the text and the studied edits of “${name(memory)}” are deleted for good. This cannot be undone.`;
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "yes") return;
    if (await changed("DELETE", memory, "", "is forgotten")) location.hash = "#memories";
  };
  dialog.showModal();
}

/** Takes the last change back, and names the memories that it concerned. */
async function undo() {
  try {
    await load();
    const before = new Set(memories.filter((memory) => memory.active).map((memory) => memory.id));
    const { active, note } = await api("POST", "/v1/rollback", { to: null });
    const after = new Set(active);
    const only = (a, b, text) => {
      const names = memories.filter(({ id }) => a.has(id) && !b.has(id)).map((memory) => `“${name(memory)}”`);
      const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
      return names.length ? `${names.slice(0, 3).join(", ")}${more} ${text}` : "";
    };
    const changes = [only(after, before, "in force again"), only(before, after, "out of force")];
    toast(`Undone: ${[...changes, note].filter(Boolean).join("; ") || "the same memories are in force as before"}.`);
  } catch (error) {
    toast(error.message);
  }
  await reload();
}
