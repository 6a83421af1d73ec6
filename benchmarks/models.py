"""GGUF files made offline, with random weights: a small one of each model family, and real shapes.

Who calls it: `make setup` (the default model), every benchmark and the engine tests. What must hold: a file
is a function of (shape, quantisation, FORMAT), byte for byte, so that any machine makes the same model and
a cached file can be trusted by its name alone. The shapes are in model_shapes.py.

    python -m benchmarks.models default            # print the path, make the file if it is missing
    python -m benchmarks.models smollm2-135m q8_0
    python -m benchmarks.models default q8_0 --files 3   # in three files; prints the path of the first
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.model_shapes import SHAPES
from benchmarks.model_write import QUANTISATIONS, write_model

FORMAT = 2  # raise it whenever the bytes written for a shape change: cached files carry it in their names
K_BLOCK = 256  # weights of one block of a K-quant


def cache_dir() -> Path:
    """Where made models are kept: outside any work tree, shared by all clones."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "agentix" / "models"


def model_path(shape_name: str = "default", quantisation: str = "q8_0") -> Path:
    """Return the GGUF for a shape, making it first when the cache lacks it.

    Raises ValueError for an unknown shape or quantisation, or a K-quant of a width it cannot hold.
    """
    _check(shape_name, quantisation)
    path = cache_dir() / f"{shape_name}-{quantisation}-{FORMAT}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / path.name
            write_model(SHAPES[shape_name], quantisation, made)
            made.replace(path)  # whole or absent: a killed writer leaves nothing that is trusted
    return path


def split_model_path(
    shape_name: str = "default", quantisation: str = "q8_0", files: int = 3
) -> Path:
    """Return the first of the `files` GGUF files that a shape is split into, as llama.cpp names them.

    Raises what model_path raises, and ValueError for K-quants and for fewer than two files.
    """
    _check(shape_name, quantisation)
    if quantisation == "q4_k" or files < 2:
        raise ValueError(f"{shape_name} {quantisation} is not made in {files} files")
    folder = cache_dir() / f"{shape_name}-{quantisation}-{FORMAT}-in-{files}"
    name = f"{shape_name}-{quantisation}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / folder.name
            made.mkdir()
            write_model(SHAPES[shape_name], quantisation, made / f"{name}.gguf", files)
            try:
                made.rename(folder)
            except OSError:  # another process was faster, and made the same
                if not folder.exists():
                    raise
    return folder / f"{name}-00001-of-{files:05d}.gguf"


def _check(shape_name: str, quantisation: str) -> None:
    if shape_name not in SHAPES:
        raise ValueError(f"shape {shape_name!r} is not one of {', '.join(SHAPES)}")
    if quantisation not in QUANTISATIONS:
        raise ValueError(f"quantisation {quantisation!r} is not one of {', '.join(QUANTISATIONS)}")
    width = SHAPES[shape_name].width
    if quantisation == "q4_k" and width % K_BLOCK:
        raise ValueError(
            f"q4_k needs widths that are multiples of {K_BLOCK}; {shape_name} has {width}"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("shape", nargs="?", default="default", choices=sorted(SHAPES))
    parser.add_argument("quantisation", nargs="?", default="q8_0", choices=QUANTISATIONS)
    parser.add_argument("--files", type=int, default=1, help="split it into so many (%(default)s)")
    chosen = parser.parse_args(argv)
    try:
        if chosen.files > 1:
            print(split_model_path(chosen.shape, chosen.quantisation, chosen.files))
        else:
            print(model_path(chosen.shape, chosen.quantisation))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
