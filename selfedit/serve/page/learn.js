/** Learning: documents to the server, and its jobs with their progress. */
import { api, events } from "./api.js";
import { byId, duration, el, facts, percent, toast } from "./dom.js";

const STAGES = {
  read: "reading the document", write: "writing study texts", questions: "writing questions",
  check: "checking questions", train: "training", test: "testing",
};
const STATUS = { done: "is learned", failed: "could not be learned", stopped: "was stopped; finished passages stay" };
const cards = new Map(); // by job id
let watching = false;

/** Makes the forms work; files may be dropped anywhere on the page. */
export function setUp() {
  const drop = byId("file-form");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    drop.classList.remove("over");
    location.hash = "#learn";
    sendFiles(event.dataTransfer.files);
  });
  byId("files").addEventListener("change", (event) => {
    sendFiles([...event.target.files]);
    event.target.value = "";
  });
  drop.addEventListener("submit", (event) => event.preventDefault());
  byId("url-form").addEventListener("submit", (event) => submit(event, () => ({ url: byId("url").value.trim() })));
  byId("text-form").addEventListener("submit", (event) =>
    submit(event, () => ({ title: byId("text-title").value.trim(), text: byId("text").value })));
}

/** Sends each file as a job. */
async function sendFiles(files) {
  for (const file of files) {
    const form = new FormData();
    form.append("file", file);
    await send(form, file.name);
  }
}

async function submit(event, body) {
  event.preventDefault();
  const form = event.target;
  if (await send(body(), form.querySelector("input").value)) form.reset();
}

/** Sends a document; whether the server takes it. A refusal stays on the page among the jobs. */
async function send(body, title) {
  try {
    await api("POST", "/v1/memories", body);
    toast(`“${title}” will be learned.`);
    await showJobs();
    return true;
  } catch (error) {
    const dismiss = el("button", { click: () => card.remove() }, "Dismiss");
    const card = el("article", { class: "card", role: "alert" },
      el("div", { class: "heading" }, el("h3", {}, title), dismiss), el("p", { class: "error" }, error.message));
    byId("jobs").prepend(card);
    return false;
  }
}

/** Shows all jobs, and follows those that have not ended. */
export async function showJobs() {
  const { jobs } = await api("GET", "/v1/jobs");
  byId("no-jobs").hidden = jobs.length > 0;
  jobs.sort((a, b) => a.created - b.created).forEach(update);
  watch(jobs);
}

/** Follows one job at a time: a browser opens only few connections to one server. */
async function watch(jobs) {
  const next = jobs.find((job) => job.status === "running") ?? jobs.find((job) => job.status === "waiting");
  if (watching || !next) return;
  watching = true;
  try {
    await events(`/v1/jobs/${encodeURIComponent(next.id)}/events`, update);
  } catch (error) {
    if (error.status !== 404) return toast(error.message);
  } finally {
    watching = false;
  }
  await new Promise((resolve) => setTimeout(resolve, 300)); // a stream that ends early is not asked for in a tight loop
  await showJobs();
}

/** Shows the state of a job; its elements stay, so that the focus does. */
function update(job) {
  const card = cards.get(job.id) ?? create(job);
  const live = !(job.status in STATUS);
  card.title.textContent = job.title;
  card.bar.hidden = card.stop.hidden = !live;
  const step = Math.max(0, Object.keys(STAGES).indexOf(job.stage)) / Object.keys(STAGES).length; // within a passage
  card.bar.value = job.total > job.done ? (job.done + step) / job.total : job.total ? 1 : 0;
  card.state.textContent = live ? progress(job) : `It ${STATUS[job.status]}.`;
  card.error.textContent = job.error ?? "";
  card.error.hidden = !job.error;
  const messages = job.messages ?? [];
  card.details.hidden = messages.length === 0;
  card.heading.textContent = messages.length === 1 ? "1 message" : `${messages.length} messages`;
  card.list.replaceChildren(...messages.map((message) => el("li", {}, message))); // the server sends the last ones
  card.summary.replaceChildren(...(job.summary ? summary(job.summary) : []));
  if (card.status && card.status !== job.status && !live) toast(`“${job.title}” ${STATUS[job.status]}.`);
  card.status = job.status;
}

/** What is done and what remains, in words. */
function progress(job) {
  if (job.status === "waiting") return "waits until an earlier job has ended";
  const passages = job.total ? `, ${job.done} of ${job.total} passages done` : "";
  const left = typeof job.seconds_left === "number" ? `, about ${duration(job.seconds_left)} left` : "";
  return `${STAGES[job.stage] ?? (job.stage || "starting")}${passages}${left}`;
}

function create(job) {
  const card = {
    title: el("h3"), state: el("p", { class: "quiet" }), error: el("p", { class: "error" }),
    bar: el("progress", { max: 1, "aria-label": `Progress of ${job.title}` }),
    stop: el("button", { "aria-label": `Stop ${job.title}`, click: () => stop(job) }, "Stop"),
    heading: el("summary"), list: el("ul"), summary: el("div"), status: null,
  };
  card.details = el("details", {}, card.heading, card.list);
  card.node = el("article", { class: "card" }, el("div", { class: "heading" }, card.title, card.stop),
    card.bar, card.state, card.error, card.summary, card.details);
  byId("jobs").prepend(card.node);
  cards.set(job.id, card);
  return card;
}

async function stop(job) {
  try {
    await api("DELETE", `/v1/jobs/${encodeURIComponent(job.id)}`);
    await showJobs();
  } catch (error) {
    toast(error.message);
  }
}

/** The result of a job. */
function summary(result) {
  const count = (kind) => String(result[kind].length);
  const links = (kind, text) => result[kind].slice(0, 5).map((id, i, ids) =>
    el("a", { href: `#memories/${id}` }, ids.length > 1 ? `${text} ${i + 1}` : text));
  return [
    facts([
      ["Kept", count("memories")], ["Only text", count("texts")], ["Wait for approval", count("quarantined")],
      ["Replaced", count("superseded")],
      ["Correct", `${percent(result.accuracy_before)} → ${percent(result.accuracy_after)}`],
      ["Time", duration(result.seconds)],
    ]),
    ...[...result.failed, ...(result.skipped ?? [])].map((one) => el("p", { class: "error" },
      `${one.title ?? one.source}: ${one.reason}`)),
    el("p", { class: "row" }, links("quarantined", "Review what waits for approval"), links("memories", "Open memory"),
      links("texts", "Open text")),
  ];
}
