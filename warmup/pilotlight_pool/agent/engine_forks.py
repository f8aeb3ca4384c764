"""Engine processes for slots: what the host is told, its output, its control socket, the fork from the zygote."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from pilotlight_pool.agent.engine_addresses import EngineAddresses
from pilotlight_pool.agent.engine_output import EngineOutput
from pilotlight_pool.agent.engine_process import EngineProcess
from pilotlight_pool.agent.model_files import Located
from pilotlight_pool.agent.zygote import Zygote
from pilotlight_pool.agent_port import EngineGone, ExitReport
from pilotlight_pool.engine_orders import EngineOrder, SlotFacts
from pilotlight_protocol.engine_frames import HostConfig


class EngineForks:
    """`addresses`: where engines listen."""

    def __init__(self, zygote: Zygote, addresses: EngineAddresses) -> None:
        self.zygote = zygote
        self._addresses = addresses

    def config(self, facts: SlotFacts, order: EngineOrder, located: Located, number: int) -> HostConfig:
        """`number`: no other engine of the slot has it."""
        return HostConfig(
            slot=facts.slot_id,
            listen=self._addresses.next(facts.device, number),
            model_dir=str(located.folder),
            model_name=order.model_name,
            engine_args=_arguments(order, facts),
            quantization=order.model.quantization,
            loras=list(order.model.loras),
            device=facts.device,
            cpus=facts.cpus or None,
            memory_bytes=facts.memory_bytes,
            adapter_rank=order.facts.adapter_rank,
            swappable=order.facts.swappable,
        )

    async def fork(
        self,
        config: HostConfig,
        on_lost: Callable[[ExitReport], None],
        on_work: Callable[[bool], None],
        on_process: Callable[[EngineProcess], None],
    ) -> EngineProcess:
        """`on_process` is told before anything is waited for. Raises EngineGone."""
        output, output_fd = await EngineOutput.open(config.slot)
        process = EngineProcess(output, on_lost=on_lost, on_work=on_work)
        on_process(process)
        ours, theirs = socket.socketpair()
        with theirs, open(output_fd, "wb", buffering=0):  # noqa: ASYNC230, PTH123  (closes the descriptor, nothing else)
            ours.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda: process, sock=ours)
            try:
                self.zygote.fork(config, process, theirs, output_fd)
            except EngineGone as error:
                process.not_started(str(error))
                raise
        return process


def _arguments(order: EngineOrder, facts: SlotFacts) -> dict[str, str]:
    """An engine can be put to sleep only where it was booted for it."""
    return {**order.model.engine_args, **({"enable_sleep_mode": "true"} if facts.sleepers else {})}
