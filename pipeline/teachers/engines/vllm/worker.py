"""vLLM's side of the engine: a program that reads batches of token ids and answers with final hidden states.

It runs in the Python environment that has vLLM, which need not have logitlake: nothing of logitlake is imported here.
`python worker.py HANDLE` speaks over the inherited socket HANDLE; every message is JSON, some are followed by bytes:

- first the arguments of `vllm.LLM`; the answer names the versions, or the error;
- then batches `{"number", "lengths"}`, followed by the token ids (int32) and by the positions with a target (bool),
  both of all sequences in one row; the answer is `{"number", "shape"}`, followed by the hidden states of those
  positions `[P, D]`, after the model's last norm, in the compute dtype; or `{"error"}`, and the end;
- `{"forget": true}` drops the batches that have no answer yet.

Batches that wait are computed together, up to a number of tokens, so that vLLM's own scheduler can fill its steps.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

# Tokens that are computed in one call, and their answers wait in memory.
_CALL_TOKENS = 16_384
# Calls whose answers may wait for the reader.
_WAITING_CALLS = 2
_SECONDS_BETWEEN_LOOKS = 1.0

Batch = tuple[int, list[list[int]], Any]


class Inbox:
    """Batches that wait. A thread reads them, so that the next ones are known while others are computed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._batches: list[Batch] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        import numpy as np

        while True:
            try:
                message = json.loads(self._connection.recv_bytes())
                if "forget" in message:
                    with self._changed:
                        self._batches.clear()
                    continue
                ids = np.frombuffer(self._connection.recv_bytes(), np.int32)
                wanted = np.frombuffer(self._connection.recv_bytes(), np.bool_)
            except (EOFError, OSError):
                end()
            bounds = np.cumsum(message["lengths"])[:-1]
            batch = message["number"], [part.tolist() for part in np.split(ids, bounds)], wanted
            with self._changed:
                self._batches.append(batch)
                self._changed.notify()

    def take(self) -> list[Batch]:
        """The batches that wait, at least one, and no more after the first than fit one call."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches)
            taken, n_tokens = 0, 0
            for _, sequences, _ in self._batches:
                n_tokens += sum(map(len, sequences))
                if taken and n_tokens > _CALL_TOKENS:
                    break
                taken += 1
            batches, self._batches = self._batches[:taken], self._batches[taken:]
            return batches


class Outbox:
    """Answers that are sent by a thread, so that the next call begins before the last one's answers have left."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answers: queue.Queue[list[tuple[dict[str, Any], Any]]] = queue.Queue(_WAITING_CALLS)
        threading.Thread(target=self._send, daemon=True).start()

    def put(self, answers: list[tuple[dict[str, Any], Any]]) -> None:
        self._answers.put(answers)

    def _send(self) -> None:
        while True:
            for message, array in self._answers.get():
                try:
                    self._connection.send_bytes(json.dumps(message).encode())
                    if array is not None:
                        self._connection.send_bytes(array)
                except OSError:
                    end()
            self._answers.task_done()

    def flush(self) -> None:
        self._answers.join()


def load(arguments: dict[str, Any]) -> Any:
    """The model without its output layer: token by token, what would go into it."""
    import vllm
    from vllm.config import PoolerConfig

    return vllm.LLM(
        runner="pooling",
        convert="embed",
        pooler_config=PoolerConfig(task="token_embed", use_activation=False),
        # A cached prefix has no hidden states.
        enable_prefix_caching=False,
        disable_log_stats=True,
        **arguments,
    )


def answer(llm: Any, batches: list[Batch], dtype: Any) -> list[tuple[dict[str, Any], Any]]:
    """The hidden states of the wanted positions of each batch, from one call of vLLM."""
    import torch

    prompts = [{"prompt_token_ids": ids} for _, sequences, _ in batches for ids in sequences]
    outputs = iter(llm.encode(prompts, pooling_task="token_embed", use_tqdm=False))
    answers = []
    for number, sequences, wanted in batches:
        hidden = torch.cat([next(outputs).outputs.data for _ in sequences])
        # `wanted` is read-only memory of the message; torch wants its own.
        chosen = hidden[torch.from_numpy(wanted.copy())].to(dtype).contiguous()
        answers.append(({"number": number, "shape": list(chosen.shape)}, chosen.flatten().view(torch.uint8).numpy()))
    return answers


def end_with(parent: int) -> None:
    """End once the parent has ended: while a model is loaded, nobody reads the connection."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    end()


def main() -> None:
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    arguments = json.loads(connection.recv_bytes())
    try:
        # First: an environment without it says so at once.
        import vllm

        import torch  # isort: skip

        llm = load(arguments)
        dtype = getattr(torch, arguments["dtype"])
    except BaseException as error:
        connection.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        raise
    versions = {"vllm": vllm.__version__, "torch_of_vllm": torch.__version__, "platform": platform()}
    connection.send_bytes(json.dumps(versions).encode())
    inbox, outbox = Inbox(connection), Outbox(connection)
    while True:
        batches = inbox.take()
        try:
            outbox.put(answer(llm, batches, dtype))
        except BaseException as error:
            outbox.put([({"error": f"{type(error).__name__}: {error}"}, None)])
            outbox.flush()
            raise


def end() -> None:
    """End this process and those that vLLM started: logitlake has ended, however that was."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def platform() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.device_name or current_platform.device_type)


if __name__ == "__main__":
    # Worker processes of vLLM that are spawned import this file anew: they must not begin.
    main()
