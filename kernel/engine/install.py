"""`make setup`: a virtual environment in this checkout with all that running and testing agentix needs.

Run by the Makefile as `python3 kernel/engine/install.py .venv` with nothing but Python installed; run again, it
repairs what is missing and changes nothing else. The slow part, llama.cpp, is build.py's.

Invariant: it exits with 0 only after the finished environment has imported every dependency.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        f"agentix set-up: Python 3.11 or newer is needed and {sys.executable} is {sys.version.split()[0]}:"
        " try `make setup PYTHON=python3.12`"
    )
if __name__ == "__main__":  # before anything is installed: import from this checkout, and from no other place
    sys.path[0] = __file__.rsplit("/kernel/", 1)[0] if "/kernel/" in __file__ else "."

import configparser
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import SubprocessError

from kernel.engine.build import (
    PACKAGE,
    Cache,
    ensure_best_wheel,
    exit_status,
    find_recipe,
    tested_version_error,
)
from kernel.engine.buildlog import ADVICE, Exit
from kernel.engine.buildrun import BuildError, Runner, locked, output_of

# Named in full: this list is what the finished environment must be able to import.
IMPORTS = ("zmq", "msgpack", "psutil", "numpy", "llama_cpp", "pytest", "hypothesis", "gguf", "starlette", "uvicorn",
           "prometheus_client", "rich", "kernel")  # fmt: skip


def say(message: str) -> None:
    print(f"agentix set-up: {message}", flush=True)


def requirements(setup_cfg: Path, *extras: str) -> list[str]:
    """What setup.cfg asks of pip, but for llama-cpp-python, which pip alone would build wrongly."""
    config = configparser.ConfigParser()
    config.read(setup_cfg)
    lists = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    return [line for listed in lists for line in listed.split() if not line.startswith(PACKAGE)]


class Environment:
    """One checkout's virtual environment."""

    def __init__(self, directory: Path, checkout: Path, runner: Runner) -> None:
        self.directory, self._checkout, self._runner = directory, checkout, runner
        self.python = str(directory / "bin" / "python")
        self.pip = [self.python, "-m", "pip"]

    def ask(self, program: str) -> str | None:
        """What a line of Python prints there; None when it fails."""
        try:
            return output_of([self.python, "-c", program]).strip()
        except (OSError, SubprocessError):
            return None

    def create(self) -> None:
        """Make it, or make it anew if what is there does not work (half made, or its Python is gone)."""
        if self.ask("import pip, sys; print(sys.version_info >= (3, 11))") == "True":
            return
        if importlib.util.find_spec("ensurepip") is None:
            raise BuildError(Exit.NO_VENV, ADVICE[Exit.NO_VENV])
        say(f"making {self.directory} with Python {sys.version.split()[0]}")
        self._runner.run(
            [sys.executable, "-m", "venv", "--clear", str(self.directory)], f"{self.directory} could not be made"
        )

    def install(self, what: Sequence[str], *options: str) -> None:
        self._runner.run(
            [*self.pip, "install", *options, *what], f"pip could not install {' '.join(what)} into {self.directory}"
        )

    def install_engine(self) -> None:
        """llama-cpp-python: what is there if it will do, else our own wheel."""
        marker = self.directory / ".engine.json"  # which machine the installed wheel of ours was built for
        version = self.ask(f"import importlib.metadata as m; print(m.version('{PACKAGE}'))")
        if version is not None:
            problem = tested_version_error(version)
            if problem is None and not marker.exists():
                say(f"keeping the {PACKAGE} {version} that {self.directory} already has")
                return
            if problem is not None:
                say(f"{problem}; replacing it")
        cache = Cache.of_user()
        recipe = cache.tried(find_recipe())
        if version == recipe.version and machine_of(marker) == recipe.machine_digest:
            return
        recipe, wheel = ensure_best_wheel(recipe, cache, self.pip, say)
        self.install([str(wheel)], "--force-reinstall", "--no-deps")
        self.install([str(wheel)])  # and its dependencies, where they are missing
        marker.write_text(json.dumps({"machine": recipe.machine_digest, "wheel": str(wheel)}) + "\n")

    def install_checkout(self) -> None:
        """Make `kernel`, `shm` and `agentix` importable from anywhere, and put the command in bin/.

        Plain path entries and not setuptools' import finder: a finder costs every agent process several
        milliseconds at its start, and type checkers cannot follow it. The compat mode knows one source
        directory, the checkout; agents/ is the second.
        """
        self.install(
            ["--editable", str(self._checkout)],
            "--no-deps", "--no-build-isolation", "--config-settings", "editable_mode=compat",
        )  # fmt: skip
        site_packages = self.ask("import sysconfig; print(sysconfig.get_path('purelib'))")
        assert site_packages is not None, "the environment's Python has just run pip"
        (Path(site_packages) / "agentix_user_space.pth").write_text(f"{self._checkout / 'agents'}\n")

    def check(self) -> None:
        """Import everything, from a directory that is not the checkout."""
        program = f"import os; os.chdir('/'); import {', '.join(IMPORTS)}"
        self._runner.run([self.python, "-c", program], f"{self.directory} is installed but does not work")


def machine_of(marker: Path) -> str | None:
    """The machine digest that a marker records; None when there is no readable marker."""
    try:
        return json.loads(marker.read_text())["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main(arguments: Sequence[str]) -> int:
    checkout = Path(__file__).resolve().parents[2]
    directory = Path(arguments[0] if arguments else ".venv").absolute()
    added = arguments[1:]
    start_s = time.monotonic()
    runner = Runner(Cache.of_user().logs / f"setup-{os.getpid()}.log", os.environ | {"PIP_NO_INPUT": "1"})
    with locked(checkout, say):
        environment = Environment(directory, checkout, runner)
        environment.create()
        if added:
            say(f"installing the Python packages of the extras {', '.join(added)}")
            environment.install(requirements(checkout / "setup.cfg", *added))
            return Exit.OK
        say("installing the Python packages that setup.cfg names")
        wanted = requirements(checkout / "setup.cfg", "http", "cli", "test")
        environment.install(["setuptools>=64", "wheel", *wanted])
        environment.install_engine()
        environment.install_checkout()
        environment.check()
    runner.log_path.unlink()
    say(f"ready in {time.monotonic() - start_s:.0f} s: {directory}/bin/agentix")
    return Exit.OK


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:])))
