"""`pilotlight`, whose warm pool gets the variables of tracing, as nothing else of the environment."""

from __future__ import annotations

import os
from dataclasses import replace

from pilotlight_local.__main__ import _surroundings
from pilotlight_local.cli.commands import cli

surroundings = _surroundings()
traced = {name: os.environ[name] for name in ("PYTHONPATH", "PILOTLIGHT_REQUEST_TRACE")}
cli(obj=replace(surroundings, download_env={**surroundings.download_env, **traced}))
