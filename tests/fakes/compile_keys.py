"""Prints the keys under which vLLM would cache each model's compiled graph, as a JSON list: `compile_keys.py '[{…}]'`.

Each object is the engine's arguments and, as `threads`, how many it computes with. The configuration is made as an
engine host makes it; nothing is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    from vllm.compilation.caching import aot_compile_hash_factors
    from vllm.usage.usage_lib import UsageContext

    from pilotlight_engine.boot import compile_cache, vllm_arguments
    from pilotlight_models.checkpoint import read_checkpoint

    keys = []
    for asked in json.loads(sys.argv[1]):
        model, threads = asked.pop("model"), asked.pop("threads", 2)
        arguments = vllm_arguments.build({"model": model, "skip_tokenizer_init": True}, list(asked.items()))
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        compile_cache.key_threads(config, threads)
        compile_cache.share(config.model_config, read_checkpoint(Path(model)).architecture)
        keys.append(str(aot_compile_hash_factors(config)))
    sys.stdout.write(f"{json.dumps(keys)}\n")


if __name__ == "__main__":
    main()
