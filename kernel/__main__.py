"""`python -m kernel --config-json JSON`: one kernel, in the foreground. `agentix up` runs this.

Exit status: 0 asked to stop, 1 a bug, 2 wrong usage, 3 a kernel of this name runs, 4 its address is
taken by something else, 5 the model cannot be served, 6 too little memory, 7 no usable
llama-cpp-python, 8 the LLM core keeps dying, 130 a second Ctrl-C. The last line on stderr says why.
"""

from __future__ import annotations

import argparse
import sys

from kernel.boot import Refused, run
from kernel.config import read_config


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernel", description=__doc__)
    parser.add_argument("--config-json", required=True, help="the fields of kernel.config.Config")
    parser.add_argument("--engine", metavar="MODULE:CLASS", help="instead of llama.cpp, for tests")
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config_json)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        print(f"kernel: --config-json {options.config_json!r}: {error!r}", file=sys.stderr)
        return 2
    try:
        return run(config, options.engine)
    except Refused as refused:
        print(f"kernel: {refused}", file=sys.stderr)
        return refused.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
