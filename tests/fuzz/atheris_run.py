"""Coverage-guided: `python tests/fuzz/atheris_run.py TARGET FOLDER [-runs=N and others of libFuzzer's]`.

Who runs it: whoever wants inputs that the mutator does not think of; it needs the extra `fuzz` (atheris). New
inputs that reach new code, and those that break something, are put into FOLDER; the kept ones are only read.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("zmtp", "call", "answer", "conversation")


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] not in TARGETS or arguments[1].startswith("-"):
        print(__doc__.partition("\n")[0] + f"\nTARGET is one of {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install -e '.[fuzz]'", file=sys.stderr)
        return 3
    target, folder, *options = arguments
    Path(folder).mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["kernel", "shm"]):
        from tests.fuzz import targets
    corpus = ROOT / "tests" / "fuzz" / "corpus" / target
    prefix = f"-artifact_prefix={Path(folder)}/"
    atheris.Setup([sys.argv[0], prefix, *options, folder, str(corpus)], targets.TARGETS[target])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
