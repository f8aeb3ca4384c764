"""The warm pool's service over fake engines: `python fake_pool.py <flags of python -m pilotlight_pool>`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from pilotlight_pool.__main__ import serve
from pilotlight_pool.agent.zygote import ZygoteSettings
from pilotlight_pool.arguments import parse

if __name__ == "__main__":
    arguments = parse(sys.argv[1:])
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(name)s: %(message)s")
    fake = Path(__file__).with_name("fake_zygote.py")
    asyncio.run(serve(arguments, os.environ, ZygoteSettings(os.environ, (sys.executable, str(fake)))))
