/** Asking: the question box, and the questions and answers of this visit. */
import { api } from "./api.js";
import { byId, el, percent, sourceName, table } from "./dom.js";

const ARMS = { weights: "weights", text: "text", both: "weights and text", base: "untouched model" };
const ORIGIN = {
  weights: "From the weights: the model answered from what it has learned, without the document in view.",
  text: "From the text: the untouched model read the stored passage and answered.",
  both: "From weights and text: the model read the stored passage and answered with what it has learned.",
  base: "No memory fits this question. The untouched model answered; nothing known here supports the answer.",
  "": "Nothing that is known supports an answer.",
};
const FROM_PASSAGE = "Quoted from the stored passage: the sentence that fits the question best.";
const QUOTED = {
  weights: "Quoted from what the model recited from its weights, without the document in view.",
  text: FROM_PASSAGE,
  both: FROM_PASSAGE,
};
let latest = null;

/** In a sentence, where the answer is from. */
function origin(record) {
  const taken = (record.candidates ?? []).find((candidate) => candidate.arm === record.from);
  return (taken?.quoted && QUOTED[record.from]) || (ORIGIN[record.from] ?? record.from);
}

/** Makes the form work. */
export function setUp() {
  const [form, box] = [byId("ask-form"), byId("question")];
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const question = box.value.trim();
    if (!question) return;
    box.value = "";
    box.focus();
    ask({ question, from: byId("from").value, strict: byId("strict").checked });
  });
}

/** Asks, and appends the answer, or why there is none, to the earlier ones. */
async function ask(body) {
  const content = el("div", { class: "waiting" }, "Answering …");
  const entry = el("article", { class: "card answer" }, el("h2", {}, body.question), content);
  for (const details of latest?.querySelectorAll("details[open]") ?? []) details.open = false;
  byId("ask-intro").hidden = true;
  byId("answers").append((latest = entry));
  const show = (...nodes) => {
    content.replaceWith(...nodes);
    entry.scrollIntoView({ block: "nearest" });
  };
  entry.scrollIntoView({ block: "nearest" });
  try {
    show(...answer(await api("POST", "/v1/ask", body, true)));
  } catch (error) {
    const again = () => { entry.remove(); byId("question").focus(); ask(body); };
    show(el("p", { class: "error" }, error.message), el("button", { click: again }, "Ask again"));
  }
}

/** A link to a memory, in brackets. */
const opens = (id) => [" (", el("a", { href: `#memories/${id}` }, "open the memory"), ")"];

/** The elements of an answer. */
function answer(record) {
  const tried = record.candidates ?? [];
  const details = [["How", record.why], ["What was recited", record.recited], ["Nearest studied text", record.edit]]
    .filter(([, text]) => text);
  return [
    el("p", { class: "said" }, record.answer),
    el("p", { class: "origin" }, origin(record)),
    record.source && el("p", {}, "Source: ", sourceName(record.source), record.memory && opens(record.memory)),
    record.passage && el("blockquote", {}, record.passage),
    record.note && el("p", { class: "note" }, record.note),
    ...(record.disagrees ?? []).map((other) => el("div", { class: "note disagrees" },
      el("p", {}, "Another source disagrees: ", sourceName(other.source), opens(other.memory)),
      el("dl", {}, el("dt", {}, "There"), el("dd", {}, other.there), el("dt", {}, "Here"), el("dd", {}, other.here)))),
    (tried.length > 0 || details.length > 0) && el("details", { open: true, "aria-live": "off" },
      el("summary", {}, tried.length > 1 ? `All ${tried.length} answers that were tried` : "How it was answered"),
      tried.length > 0 && table("Answers that were tried, with the probability that each is right",
        ["From", "Answer", "Probability"], tried.map((one) => row(one, one.arm === record.from))),
      details.length > 0 && el("dl", {}, details.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]))),
  ].filter(Boolean);
}

/** One arm's answer as a row of the table. */
function row(candidate, taken) {
  const { arm, probability } = candidate;
  return el("tr", { class: taken ? "taken" : null },
    el("th", { scope: "row" }, ARMS[arm] ?? arm, taken && el("span", { class: "badge" }, "taken")),
    el("td", {}, candidate.answer),
    el("td", { class: "number" }, percent(probability),
      typeof probability === "number" && el("progress", { value: probability, max: 1, "aria-hidden": "true" })));
}
