"""An OpenAI-compatible server in this process, whose teacher is a table: the next token depends on the last one alone.

It answers as vLLM does (`prompt_logprobs`) or by the classic `echo`, writes completions, and fails when a test tells it
to.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Reply:
    """A reply in place of the right one; with `cut` the connection ends in the middle of it."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class BigramServer:
    """`mishaps` answer the next requests for completions, one each. `requests` has what was asked: path and body."""

    logits_VV: np.ndarray  # noqa: N815 (shape suffix)
    tokenizer: Tokenizer
    model: str = "bigram"
    form: str = "prompt_logprobs"
    max_logprobs: int = 20
    key: str | None = None
    max_model_len: int | None = 128
    tells: tuple[str, ...] = ("models", "tokenize", "usage")
    # How drawn ids are told: `token_ids`, `names` as token_id:N, or `texts`, which is not at all.
    drawn: str = "token_ids"
    processed_logprobs: bool = False
    follows_stop_tokens: bool = True
    mishaps: list[Reply] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    url: str = ""
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def logprobs_VV(self) -> np.ndarray:  # noqa: N802 (shape suffix)
        x = self.logits_VV - self.logits_VV.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    def reply(self, path: str, body: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.requests.append((path, body))
            if self.mishaps and path == "/v1/completions":
                return self.mishaps.pop(0)
        if self.key is not None and key != f"Bearer {self.key}":
            return _error(401, f"Incorrect API key provided: {key}")
        if path == "/v1/models" and "models" in self.tells:
            model = {"id": self.model, "root": "/models/bigram", "max_model_len": self.max_model_len}
            return _json({"object": "list", "data": [model]})
        if path == "/tokenize" and "tokenize" in self.tells:
            return _json({"tokens": self.tokenizer.encode(body["prompt"], add_special_tokens=False).ids})
        if path == "/v1/completions":
            return self._completion(body)
        return _error(404, "Not Found")

    def _completion(self, body: dict[str, Any]) -> Reply:
        if body["model"] != self.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        choice: dict[str, Any] = {"index": 0, "text": "", "logprobs": None}
        k = body.get("prompt_logprobs") or body.get("logprobs") or 0
        if k > self.max_logprobs:
            return _error(400, f"Requested logprobs of {k}, which is greater than max allowed: {self.max_logprobs}")
        if self.form == "prompt_logprobs" and "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                None,
                *(self._entry(a, b, k) for a, b in pairwise(prompt)),
            ]
        if self.form == "echo" and body.get("echo"):
            choice["logprobs"] = self._echo(prompt, k)
        if body.get("return_token_ids"):
            self._write(body, prompt, choice)
        answer: dict[str, Any] = {"choices": [choice]}
        if "usage" in self.tells:
            answer["usage"] = {"prompt_tokens": len(prompt)}
        return _json(self.change(answer))

    def _write(self, body: dict[str, Any], prompt: list[int], choice: dict[str, Any]) -> None:
        """Draws with the seed of the request, as its sampling says, but for top_p."""
        rng, ids, values, tops = np.random.default_rng(body["seed"]), [], [], []
        before = prompt[-1]
        while len(ids) < body["max_tokens"] and not (
            self.follows_stop_tokens and ids and ids[-1] in body["stop_token_ids"]
        ):
            raw_V = self.logprobs_VV[before]
            x_V = raw_V / (body["temperature"] or 1e-9)
            if body["top_k"]:
                x_V = np.where(raw_V >= np.sort(raw_V)[-body["top_k"]], x_V, -np.inf)
            p_V = np.exp(x_V - x_V.max())
            before = int(rng.choice(len(p_V), p=p_V / p_V.sum()))
            told_V = np.log(np.maximum(p_V / p_V.sum(), 1e-30)) if self.processed_logprobs else raw_V
            ids.append(before)
            values.append(float(np.float32(told_V[before])))
            tops.append({f"token_id:{i}": float(np.float32(told_V[i])) for i in {before, int(told_V.argmax())}})
        names = [f"token_id:{i}" if self.drawn == "names" else self.tokenizer.decode([i]) for i in ids]
        choice["logprobs"] = {"tokens": names, "token_logprobs": values, "top_logprobs": tops}
        if self.drawn == "token_ids":
            choice["token_ids"] = ids

    def _top(self, token: int, k: int) -> list[int]:
        return np.argsort(-self.logprobs_VV[token], kind="stable")[:k].tolist()

    def _entry(self, token: int, real: int, k: int) -> dict[str, Any]:
        ids = dict.fromkeys([real, *self._top(token, k)])
        return {str(i): {"logprob": float(np.float32(self.logprobs_VV[token, i]))} for i in ids}

    def _echo(self, prompt: list[int], k: int) -> dict[str, Any]:
        text = {i: self.tokenizer.decode([i], skip_special_tokens=False) for i in range(len(self.logits_VV))}
        pairs = list(pairwise(prompt))
        values = [float(np.float32(self.logprobs_VV[a, b])) for a, b in pairs]
        tops = [{text[i]: float(np.float32(self.logprobs_VV[a, i])) for i in self._top(a, k)} for a, _ in pairs]
        return {
            "tokens": [*(text[i] for i in prompt), "x"],
            "token_logprobs": [None, *values, -1.0],
            "top_logprobs": [None, *tops, {"x": -1.0}],
        }

    @contextmanager
    def running(self) -> Iterator["BigramServer"]:
        """Serve at `url` until the end of the context."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body in one packet: else each answer waits 40 ms for an acknowledgement.
            wbufsize = -1

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any]) -> None:
                with outer._counted():
                    reply = outer.reply(self.path, body, self.headers.get("Authorization"))
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
                if reply.cut:
                    self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is no news."""

        server = Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


def _json(content: Any) -> Reply:
    return Reply(body=json.dumps(content).encode(), headers={"Content-Type": "application/json"})


def _error(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message, "code": status}}).encode())
