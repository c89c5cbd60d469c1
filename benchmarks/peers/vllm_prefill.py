"""vLLM by itself: the time that its own prefill of given prompts takes. Runs in the environment that has vLLM.

`python vllm_prefill.py MODEL DTYPE PROMPTS`: PROMPTS is a JSON file, `[[warm-up prompt, …], [prompt, …]]` of token ids.
Prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

from vllm import LLM, SamplingParams


def main() -> None:
    model, dtype, prompts = sys.argv[1:]
    warm_up, measured = json.loads(Path(prompts).read_text(encoding="utf-8"))
    llm = LLM(model=model, dtype=dtype, max_model_len=1024, enable_prefix_caching=False, disable_log_stats=True)
    # The shortest answer that there is: one token, which is neither kept nor turned into text.
    one_token = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
    llm.generate([{"prompt_token_ids": ids} for ids in warm_up], one_token, use_tqdm=False)
    began = time.perf_counter()
    llm.generate([{"prompt_token_ids": ids} for ids in measured], one_token, use_tqdm=False)
    seconds = time.perf_counter() - began
    n_tokens = sum(map(len, measured))
    print(json.dumps({"tokens": n_tokens, "seconds": seconds, "tokens_per_s": n_tokens / seconds}))


if __name__ == "__main__":
    main()
