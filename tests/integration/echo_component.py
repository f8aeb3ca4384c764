"""A tiny component on the serving shell, run as a process by the shell's own tests: `counting_model` served.

`python echo_component.py PORT [--drain_timeout_s S]`. Infer echoes `values` INT32[n]; generate_stream sends `count`
events `pause_s` apart and fails where told to; `GET /v2/cancelled` lists the requests that were cancelled.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
from counting_model import CountingModel

from pilotlight_serving.settings import ServerSettings


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--drain_timeout_s", type=float, default=10)
    parser.add_argument("--max_concurrent_requests", type=int, default=64)
    parser.add_argument("--keep_alive_s", type=int, default=125)
    args = parser.parse_args()
    from pilotlight_serving.server import Server

    settings = ServerSettings(
        model_control=True,
        http_port=args.port,
        host="127.0.0.1",
        max_body_bytes=256 * 1024,
        max_concurrent_requests=args.max_concurrent_requests,
        header_timeout_s=1.0,
        body_stall_timeout_s=1.0,
        keep_alive_s=args.keep_alive_s,
        drain_timeout_s=args.drain_timeout_s,
        accept_while_draining_s=0.5,
        drain_quiet_s=0.2,
    )
    return Server(CountingModel(), settings).run(contextlib.nullcontext())


if __name__ == "__main__":
    raise SystemExit(main())
