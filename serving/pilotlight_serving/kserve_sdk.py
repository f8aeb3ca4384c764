"""The one place that imports KServe's SDK, without what its package drags in and a server never calls.

Measured on 2 idle cores the plain `import kserve` takes twice as long, and with vLLM installed 13 s more. So, while the
SDK is imported:

- `vllm` is blocked for good (KServe imports it, and torch, wherever it can find it);
- KServe's package initializer, which loads the Kubernetes client, is put off until someone asks the package for a name;
- pandas is a placeholder: only `InferRequest.as_dataframe` and V1's decoding use it, neither is served here;
- httpx's command line, which loads rich and click, is blocked;
- `sys.argv` is empty: KServe parses it at import and would exit on a value it does not know.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import util
from types import ModuleType
from typing import Any

# None in sys.modules makes every later import of it an ImportError.
sys.modules["vllm"] = None  # type: ignore[assignment]
# Processes are only ever started by exec here; gRPC's fork handlers would stop its threads at each start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


def _package_without_initializer() -> Callable[[], None]:
    """Put the bare package in place; the returned call makes it initialize itself when asked for a name."""
    if "kserve" in sys.modules:
        return lambda: None
    spec = util.find_spec("kserve")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("the KServe SDK is not installed; install pilotlight[serving]", name="kserve")
    loader = spec.loader
    package = util.module_from_spec(spec)
    sys.modules["kserve"] = package

    def initialize(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    return lambda: package.__dict__.update(__getattr__=initialize)


def _placeholder_pandas() -> bool:
    if "pandas" in sys.modules:
        return False
    placeholder = ModuleType("pandas")
    placeholder.__dict__["DataFrame"] = type("DataFrame", (), {})
    sys.modules["pandas"] = placeholder
    return True


_argv = sys.argv
sys.argv = _argv[:1]
_initialize_on_demand = _package_without_initializer()
_pandas_was_replaced = _placeholder_pandas()
_httpx_cli_was_blocked = "httpx" not in sys.modules
if _httpx_cli_was_blocked:
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
try:
    from kserve.metrics import PREDICT_HIST_TIME
    from kserve.model import Model
    from kserve.model_repository import ModelRepository
    from kserve.model_server import ModelServer, app
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as predict_v2
finally:
    sys.argv = _argv
    if _pandas_was_replaced:
        del sys.modules["pandas"]
    if _httpx_cli_was_blocked:
        del sys.modules["httpx._main"]
_initialize_on_demand()

__all__ = ["PREDICT_HIST_TIME", "Model", "ModelRepository", "ModelServer", "app", "predict_v2"]
