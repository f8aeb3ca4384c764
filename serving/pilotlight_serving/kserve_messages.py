"""KServe's generated V2 messages (`predict_v2`), without the rest of its SDK.

The module is loaded by its place: importing it by name runs the package's initializer, which loads FastAPI, pandas, the
Kubernetes client, and vLLM where it is installed (0.3 to 13 s, decision 6). It is left under its own name, so that a
process that does import the SDK declares the messages once.
"""

from __future__ import annotations

import os
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

# Processes are only ever started by exec here; gRPC's fork handlers would stop its threads at each start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

_NAME = "kserve.protocol.grpc.grpc_predict_v2_pb2"


def _load() -> ModuleType:
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    package = util.find_spec("kserve")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the KServe SDK is not installed; install pilotlight[serving]", name="kserve")
    path = Path(package.origin).parent.joinpath(*_NAME.split(".")[1:]).with_suffix(".py")
    spec = util.spec_from_file_location(_NAME, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"KServe's SDK has no {_NAME}", name=_NAME)
    module = util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    return module


predict_v2 = _load()
