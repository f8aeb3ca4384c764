"""Puts the provider of a predictor's own engine together, from what the command line says."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_engine.client.child_provider import ChildEngineProvider, ChildSettings
from pilotlight_engine.process import device_probe, machine
from pilotlight_engine.process.environment import engine_environment
from pilotlight_engine.process.work_dir import open_work_dir
from pilotlight_protocol.engine_frames import HostConfig


def child_provider(
    config: HostConfig, environment: Mapping[str, str], work_dir: str | None = None, startup_deadline_s: float = 600.0
) -> ChildEngineProvider:
    """`work_dir`: None to choose one. Raises InternalError when there is none to write to."""
    on_cpu = device_probe.read(environment).kind == "cpu"
    return ChildEngineProvider(
        ChildSettings(
            config,
            engine_environment(
                environment,
                open_work_dir(work_dir, environment),
                cpus=machine.limits().cpus if on_cpu else None,
                preload=machine.cpu_preload() if on_cpu else (),
                instruction_set=machine.instruction_set(),
                eager=config.engine_args.get("enforce_eager") == "true",
            ),
            startup_deadline_s,
        )
    )
