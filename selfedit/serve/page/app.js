/** The page of `selfedit serve`: which view is shown, and the token. */
import { api, onUnauthorized, setToken, takeToken } from "./api.js";
import * as asking from "./ask.js";
import { byId, closeToast, el } from "./dom.js";
import * as learning from "./learn.js";
import * as memories from "./memories.js";

const VIEWS = ["ask", "memories", "memory", "learn"];
let tokenTried = false;

/** Shows one section and marks its link. */
function reveal(view) {
  for (const name of [...VIEWS, "token"]) byId(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    const present = link.hash === `#${view === "memory" ? "memories" : view}`;
    link.setAttribute("aria-current", present ? "page" : "false");
  }
}

/** Shows what the address names; `focus`: moves the focus there, for keyboards and screen readers. */
async function show(focus) {
  const [view, id] = location.hash.slice(1).split("/");
  const name = id ? "memory" : VIEWS.includes(view) && view !== "memory" ? view : "ask";
  const section = byId(name);
  try {
    if (name === "memory") {
      const loading = el("p", { class: "quiet" }, "Loading …");
      if (section.hidden) byId("memory-page").replaceChildren(el("h1", { tabindex: "-1" }, "Memory"), loading);
      reveal(name);
      await memories.showOne(decodeURIComponent(id));
    } else {
      reveal(name);
      if (name === "memories") await memories.showList();
      if (name === "learn") await learning.showJobs();
    }
  } catch (error) {
    const failure = el("p", { class: "error", role: "alert" }, error.message);
    const place = { memory: "memory-page", memories: "memory-list", learn: "jobs" }[name];
    const heading = name === "memory" ? [el("h1", { tabindex: "-1" }, "Memory")] : [];
    byId(place).replaceChildren(...heading, failure);
  }
  if (section.hidden) return;
  document.title = `${section.querySelector("h1").textContent} – selfedit`;
  if (focus) (name === "ask" ? byId("question") : section.querySelector("h1")).focus();
}

/** Asks for the token. */
function askForToken() {
  byId("token-reason").textContent = tokenTried
    ? "The server does not accept this token. Paste the one that selfedit serve printed after “#token=”."
    : "Open the address that selfedit serve printed, or paste what follows “#token=” in it.";
  reveal("token");
  document.title = "Token needed – selfedit";
  byId("token-field").focus();
}

/** Starts, or starts again with another token. */
async function start() {
  const health = await api("GET", "/health").catch(() => ({}));
  byId("model").textContent = health.model?.split("/").pop() ?? "";
  tokenTried = Boolean(sessionStorage.getItem("selfedit-token"));
  await api("GET", "/v1/models").then(() => show(true), (error) => error.status !== 401 && show(true));
}

onUnauthorized(askForToken);
asking.setUp();
memories.setUp(() => show(false));
learning.setUp();
byId("toast-close").addEventListener("click", closeToast);
document.addEventListener("keydown", (event) => event.key === "Escape" && !byId("confirm").open && closeToast());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token-field").value);
  byId("token-field").value = "";
  start();
});
addEventListener("hashchange", () => (takeToken() ? start() : show(true)));
takeToken();
start();
