"""The predictor's end of a lease: connects to a pool's engine host and shows the lease's secret.

The connection is the lease: when the host closes it, `lost` says why (revoked, swapped, shut down, died). Getting
leases and renewing them is not done here.
"""

from __future__ import annotations

import asyncio

from pilotlight_engine.client.engine_client import EngineClient
from pilotlight_engine.process import endpoint as endpoints
from pilotlight_protocol.engine_frames import Hello
from pilotlight_protocol.errors import Unavailable

_CALL_DEADLINE_S = 30.0


class PoolEngineClient(EngineClient):
    """A `contract.Engine` on a leased host."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        report = self.exit_report
        self.lose(report.reason if report is not None else "the engine's connection was closed; take a new lease")

    async def close(self) -> None:
        """Leave the engine; what still runs on it for us is aborted by the host."""
        self.lose("the engine was given back")
        await self.disconnected.wait()


async def connect(endpoint: str, lease_id: str, secret: str, deadline_s: float = 10.0) -> PoolEngineClient:
    """Raises Unavailable: nobody listens there, the host knows no such lease, or it did not answer within the deadline;
    InvalidInput for an endpoint that is none."""
    address = endpoints.parse(endpoint)
    loop = asyncio.get_running_loop()
    client = PoolEngineClient(_CALL_DEADLINE_S)
    try:
        async with asyncio.timeout(deadline_s):
            if isinstance(address, endpoints.UnixEndpoint):
                await loop.create_unix_connection(lambda: client, str(address.path))
            else:
                await loop.create_connection(lambda: client, address.host, address.port)
            client.send(Hello(lease_id, secret))
            waiting: set[asyncio.Future[None] | asyncio.Future[str]] = {client.ready, client.lost}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    except (OSError, TimeoutError) as error:
        client.lose(f"no engine answers at {endpoint}")
        raise Unavailable(f"no engine answers at {endpoint} ({type(error).__name__}); take a new lease") from error
    except BaseException:
        client.lose("the connection was given up")
        raise
    if not client.ready.done():
        raise Unavailable(f"the engine at {endpoint} does not know lease {lease_id}: {client.lost.result()}")
    return client
