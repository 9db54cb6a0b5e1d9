"""A real server on this machine that replies like a chat-completions API, by a script or a rule."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reply(text: object, status: int = 200, headers: dict | None = None) -> tuple[int, dict, bytes]:
    return (
        status,
        headers or {},
        json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode(),
    )


def refused(status: int, message: str, code: str = "", headers: dict | None = None) -> tuple[int, dict, bytes]:
    return status, headers or {}, json.dumps({"error": {"message": message, "code": code}}).encode()


def by_rule(asked: dict) -> tuple[int, dict, bytes]:
    """Yes to whatever was said to be Oslo."""
    return reply("Yes" if "oslo" in asked["said"].lower() else "no.")


class Endpoint:
    """Answers each request with the next of `script`, then by rule; keeps what was asked."""

    def __init__(self):
        self.script: list[tuple[int, dict, bytes]] = []
        self.rule: Callable[[dict], tuple[int, dict, bytes]] = by_rule
        self.asked: list[dict] = []
        self.slow_s, self.most, self._now, self._lock = 0.0, 0, 0, threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, headers, answer = endpoint.take(self.path, self.headers, body)
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None  # of a client that has gone
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def take(self, path, headers, body) -> tuple[int, dict, bytes]:
        prompt = body["messages"][-1]["content"]
        asked = {
            "path": path,
            "key": headers["authorization"],
            "body": body,
            "prompt": prompt,
            "said": prompt.rpartition("What was said:\n")[2],
        }
        with self._lock:
            self.asked.append(asked)
            answer = self.script.pop(0) if self.script else None
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.slow_s)
        with self._lock:
            self._now -= 1
        return answer or self.rule(asked)
