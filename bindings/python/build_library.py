"""Puts libsonew.so into the wheel: the one that SONEW_LIBRARY names, or one
that cargo builds from the repository around this folder; and the licences."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "libsonew.so"


class BuildLibrary(BuildHookInterface):
    def initialize(self, version, build_data):
        repository = Path(self.root).parent.parent
        library = given() or built(repository)
        include = build_data["force_include"]
        include[str(library)] = f"sonew/{LIBRARY}"
        for licence in repository.glob("LICENSE-*"):
            include[str(licence)] = f"sonew/{licence.name}"
        # The library needs no particular Python, but this platform.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


def given():
    path = os.environ.get("SONEW_LIBRARY")
    if path and not Path(path).is_file():
        raise SystemExit(f"SONEW_LIBRARY is {path!r}, where there is no file")
    return path and Path(path).resolve()


def built(repository):
    if not (repository / "Cargo.toml").is_file() or not shutil.which("cargo"):
        raise SystemExit(
            f"{LIBRARY} is built by cargo (Rust) from the repository that this package is "
            "part of: install Rust, or set SONEW_LIBRARY to a library that is already built"
        )
    subprocess.run(["cargo", "build", "--release", "--lib"], cwd=repository, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", repository / "target"))
    return (repository / target / "release" / LIBRARY).resolve()
