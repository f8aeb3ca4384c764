"""`python -m pilotlight_predictor`: the predictor's composition root, the only place that reads the environment.

The order matters for a cold start: the port is bound first (early clients wait in its backlog), then a lease is asked
for, where there is a pool, and only then the rest of this package and the web stack are imported.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from pilotlight_engine.leasing import lease_client
from pilotlight_engine.leasing.lease_client import LeaseAsk
from pilotlight_engine.leasing.pool_http import PoolHttp
from pilotlight_predictor import arguments
from pilotlight_protocol.errors import PilotlightError
from pilotlight_serving.log_lines import log_to_stderr
from pilotlight_wire.one_port import listen

if TYPE_CHECKING:
    from pilotlight_engine.leasing.engine_holder import PhasedProvider

_log = logging.getLogger("pilotlight.predictor")


def main(engine_provider: Callable[[Namespace], PhasedProvider] | None = None) -> int:
    """`engine_provider`: where engines come from; a warm pool, or a child process of vLLM, when None."""
    args = arguments.parse(sys.argv[1:], os.environ)
    log_to_stderr(args.log_level)
    if args.ignored:
        _log.info("arguments of KServe's that change nothing here: %s", " ".join(args.ignored))
    try:
        listener = listen(args.host, args.http_port)
    except OSError as error:
        _log.error("cannot listen on port %d: %s", args.http_port, error)
        return 1
    try:
        if args.pool_url and engine_provider is None:
            wish = arguments.lease_wish(args)
            ask = LeaseAsk(wish, lambda: PoolHttp(args.pool_url, args.pool_key), args.startup_deadline_s)
            first = lease_client.begin(ask)
            from pilotlight_predictor import predictor_server

            return predictor_server.run(args, listener, predictor_server.leased(wish, first))
        from pilotlight_predictor import predictor_server

        own = predictor_server.own(engine_provider or (lambda args: predictor_server.child_engines(args, os.environ)))
        return predictor_server.run(args, listener, own)
    except PilotlightError as error:
        _log.error("%s", error.message)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
