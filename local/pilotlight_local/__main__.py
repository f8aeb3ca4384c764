"""Composition root of `pilotlight`: the only place that reads the environment."""

import os
import signal
import sys
import time
from pathlib import Path

# Ctrl-C while the imports below run ends the process without a traceback; `main` makes it an exception again.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from pilotlight_local.cli import proof_commands  # noqa: E402, F401  (adds its commands)
from pilotlight_local.cli.commands import Surroundings, cli  # noqa: E402
from pilotlight_protocol.model_reference import STORE_VARIABLE  # noqa: E402

STATE_DIR_NAME = "pilotlight"
# What the child that downloads models may know of this environment.
DOWNLOAD_VARIABLES = (
    "HOME",
    "HF_HOME",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)
# Where the credentials of object stores stand (obstore reads them).
DOWNLOAD_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")


def _surroundings() -> Surroundings:
    state_home = os.environ.get("XDG_STATE_HOME")
    base = Path(state_home) if state_home else Path.home() / ".local" / "state"
    # `python` in a pod's command means the interpreter that runs the platform.
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    download_env = {
        name: value
        for name, value in os.environ.items()
        if name in DOWNLOAD_VARIABLES or name.startswith(DOWNLOAD_PREFIXES)
    }
    store = os.environ.get(STORE_VARIABLE)
    return Surroundings(
        default_state_dir=base / STATE_DIR_NAME,
        search_path=search_path,
        python=sys.executable,
        # The same folder as `pilotlight prefetch`, so that what was fetched ahead is found.
        model_store=Path(store).absolute() if store else Path.home() / ".cache" / "pilotlight" / "store",
        download_env={"PATH": search_path, **download_env},
        started_s=time.monotonic(),
    )


def main() -> None:
    """Entry point of the `pilotlight` command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(obj=_surroundings())


if __name__ == "__main__":
    main()
