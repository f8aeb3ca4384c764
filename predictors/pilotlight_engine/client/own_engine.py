"""Puts the provider of a predictor's own engine together, from what the command line says."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_engine.boot.assembly import EngineSettings, configure
from pilotlight_engine.client.child_provider import ChildEngineProvider, ChildSettings
from pilotlight_engine.process import device_probe, machine
from pilotlight_engine.process.environment import engine_environment
from pilotlight_engine.process.work_dir import open_work_dir


def child_provider(settings: EngineSettings, environment: Mapping[str, str]) -> ChildEngineProvider:
    """Decide everything that can be decided before an engine starts.

    Raises EngineMisconfigured (with what to use instead) for a model that this device cannot serve as asked.
    """
    limits = machine.limits()
    on_cpu = device_probe.read(environment).kind == "cpu"
    return ChildEngineProvider(
        ChildSettings(
            configure(settings, environment, limits),
            engine_environment(
                environment,
                open_work_dir(settings.work_dir, environment),
                cpus=limits.cpus if on_cpu else None,
                preload=machine.cpu_preload() if on_cpu else (),
                instruction_set=machine.instruction_set(),
                eager=settings.engine_args.get("enforce_eager") == "true",
            ),
            settings.startup_deadline_s,
            settings.shutdown_grace_s,
        )
    )
