/** Requests to the server: the token, errors in the server's words, and waiting for a lost connection. */
import { byId } from "./dom.js";

const KEY = "selfedit-token";
const handlers = { unauthorized: () => {} };

/** Calls `listener` with a reason whenever the server wants another token. */
export const onUnauthorized = (listener) => (handlers.unauthorized = listener);

/** Keeps the token for this tab. */
export const setToken = (token) => sessionStorage.setItem(KEY, token.trim());

/** Takes the token out of the address, where it would be shown and copied; whether there was one. */
export function takeToken() {
  const token = /[#&]token=([^&]*)/.exec(location.hash)?.[1];
  if (token === undefined) return false;
  history.replaceState(null, "", location.pathname);
  setToken(decodeURIComponent(token));
  return true;
}

/** An error for people; `status` is 0 if the server was not reached. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** A response of the server. Throws ApiError. */
async function request(method, path, body) {
  const token = (sessionStorage.getItem(KEY) ?? "").replace(/[^!-~]/g, "?"); // what a header can carry
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined && !(body instanceof FormData)) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: headers["Content-Type"] ? JSON.stringify(body) : body });
  } catch (error) {
    throw new ApiError("The connection to the server is lost.", 0);
  }
  if (response.ok) return response;
  const message = (await response.json().catch(() => null))?.error?.message;
  if (response.status === 401) handlers.unauthorized();
  throw new ApiError(message || `The server answered with ${response.status} ${response.statusText}`, response.status);
}

let reconnecting = null;

/** Waits until the server answers again, and says so on the page. */
export function reconnected() {
  reconnecting ??= (async () => {
    const banner = byId("connection");
    for (let wait = 1; ; wait = Math.min(2 * wait, 10)) {
      banner.textContent = `The connection to the server is lost. Trying again every ${wait} s …`;
      banner.hidden = false;
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      if ((await fetch("/health").catch(() => null))?.ok) break;
    }
    banner.hidden = true;
    reconnecting = null;
  })();
  return reconnecting;
}

/** The JSON answer to a request. One that may be repeated is sent again when a lost connection is back. */
export async function api(method, path, body, repeat = method === "GET") {
  for (;;) {
    try {
      return await (await request(method, path, body)).json();
    } catch (error) {
      if (error.status !== 0) throw error;
      const back = reconnected();
      if (!repeat) throw new ApiError("The connection to the server is lost; look whether the change was made.", 0);
      await back;
    }
  }
}

/** Calls `onEvent` with each event of a stream until it ends; connects again if the connection is lost. */
export async function events(path, onEvent) {
  for (;;) {
    try {
      const reader = (await request("GET", path)).body.pipeThrough(new TextDecoderStream()).getReader();
      let buffer = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const parts = (buffer + value).replaceAll("\r\n", "\n").split("\n\n");
        buffer = parts.pop();
        for (const part of parts) {
          const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
          if (data.length) onEvent(JSON.parse(data.join("\n")));
        }
      }
    } catch (error) {
      if (error.status) throw error;
      await reconnected();
    }
  }
}
