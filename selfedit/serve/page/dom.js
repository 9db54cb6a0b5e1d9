/** Creating elements. Texts become text nodes or attributes, never markup. */

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** Creates an element. Functions in `props` are listeners; what is null, undefined or false is left out. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value ?? false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child ?? false));
  return node;
}

/** A table of `tr` elements. */
export function table(caption, columns, rows) {
  return el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col" }, column)))),
    el("tbody", {}, rows));
}

/** Terms and values beside each other. */
export const facts = (pairs) => el("dl", { class: "facts" },
  pairs.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));

/** A share as a percentage; a dash where it is unknown. */
export const percent = (share) => (typeof share === "number" ? `${Math.round(share * 100)}%` : "–");

/** A number of bytes for people. */
export function bytes(count) {
  return count < 1e3 ? `${count} B` : count < 1e6 ? `${(count / 1e3).toFixed(0)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** A duration for people. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** The date of a UTC time in ISO 8601, in the reader's language and zone. */
export function date(created, style = { dateStyle: "medium" }) {
  const time = new Date(/(Z|[+-]\d\d:?\d\d)$/.test(created) ? created : `${created}Z`);
  return isNaN(time) ? String(created ?? "") : el("time", { datetime: created }, time.toLocaleString(undefined, style));
}

/** A source; only an address of the web is a link. */
export const sourceName = (source) => /^https?:\/\//i.test(source)
  ? el("a", { href: source, target: "_blank", rel: "noopener noreferrer" }, source) : el("span", {}, source);

let closing = 0;

/** Shows what has changed; `undo` offers to take it back. It goes after a while, not while it is used. */
export function toast(text, undo = null) {
  const box = byId("toast");
  clearTimeout(closing);
  box.hidden = false;
  byId("toast-text").textContent = text;
  byId("toast-undo").hidden = !undo;
  byId("toast-undo").onclick = () => { closeToast(); undo(); };
  const close = () => (box.matches(":hover, :focus-within") ? (closing = setTimeout(close, 3000)) : closeToast());
  closing = setTimeout(close, 15000);
}

/** Closes the toast; the focus stays in the page. */
export function closeToast() {
  if (byId("toast").contains(document.activeElement)) byId("main").focus();
  byId("toast").hidden = true;
}
