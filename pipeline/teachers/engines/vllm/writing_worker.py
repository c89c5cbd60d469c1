"""vLLM's side of writing: a program that answers prompts with sampled token ids and their log-probs.

It runs in the Python environment that has vLLM; nothing of logitlake is imported here. The program gets HANDLE and
speaks over the inherited socket HANDLE; every message is JSON: first the arguments of `vllm.LLM`, answered by the
versions; then `{"prompts", "seeds", "sampling"}`, answered by `{"completions": [[ids, logprobs], …]}`, or `{"error"}`
and the end. It ends with its parent.
"""

import json
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

_SECONDS_BETWEEN_LOOKS = 1.0


def write(llm: Any, message: dict[str, Any]) -> list[tuple[list[int], list[float]]]:
    """The completion of each prompt: ids as they were drawn, with the log-prob of each at temperature 1."""
    from vllm import SamplingParams

    # `logprobs=0`: of the drawn id alone, of the distribution before temperature, top_k and top_p.
    parameters = [
        SamplingParams(**message["sampling"], seed=seed, logprobs=0, detokenize=False) for seed in message["seeds"]
    ]
    prompts = [{"prompt_token_ids": ids} for ids in message["prompts"]]
    completions = []
    for answer in llm.generate(prompts, parameters, use_tqdm=False):
        output = answer.outputs[0]
        ids = list(output.token_ids)
        completions.append((ids, [step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)]))
    return completions


def end_with(parent: int) -> None:
    """End this process, and those that vLLM started, once the parent has ended, however that was."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    connection = Connection(int(sys.argv[1]))

    def send(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    try:
        arguments = json.loads(connection.recv_bytes())
        import vllm

        import torch  # isort: skip

        llm = vllm.LLM(logprobs_mode="raw_logprobs", disable_log_stats=True, **arguments)
        send({"vllm": vllm.__version__, "torch_of_vllm": torch.__version__})
        while True:
            send({"completions": write(llm, json.loads(connection.recv_bytes()))})
    except EOFError:
        # Nothing more is asked: end what vLLM started, too.
        os.killpg(os.getpgrp(), signal.SIGKILL)
    except BaseException as error:
        send({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    # Worker processes of vLLM that are spawned import this file anew: they must not begin.
    main()
