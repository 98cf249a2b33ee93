"""Puts the library into the wheel: the one that SONEW_LIBRARY names, or one that cargo builds
from the repository around this folder, which takes minutes; with it the headers and the
licences of this library, of the crates that are linked into it, and of Rust's own library."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "libsonew.so"
TEXTS = ("LICENSE", "LICENCE", "COPYING", "UNLICENSE", "NOTICE")
HEADERS = ("include/sonew.h", "include/sonew_xla.h", "bindings/cpp/sonew.hpp")


class BuildLibrary(BuildHookInterface):
    def initialize(self, version, build_data):
        repository = Path(self.root).parent.parent
        library = given() or built(repository)
        include = build_data["force_include"]
        # Under its soname, by which programs that link it look for it: a wheel has no links.
        minor, _, _ = self.metadata.version.rpartition(".")
        include[str(library)] = f"sonew/{LIBRARY}.{minor}"
        for header in HEADERS:
            include[str(repository / header)] = f"sonew/include/{Path(header).name}"
        for licence in repository.glob("LICENSE-*"):
            include[str(licence)] = f"sonew/licenses/{licence.name}"
        for name, licence in linked(repository):
            include[str(licence)] = f"sonew/licenses/{name}/{licence.name}"
        # The library needs no particular Python, but this platform.
        here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{os.environ.get('SONEW_WHEEL_PLATFORM') or here}"


def given():
    path = os.environ.get("SONEW_LIBRARY")
    if path and not Path(path).is_file():
        raise SystemExit(f"SONEW_LIBRARY is {path!r}, where there is no file")
    return path and Path(path).resolve()


def built(repository):
    if not (repository / "Cargo.toml").is_file() or not shutil.which("cargo"):
        raise SystemExit(
            f"{LIBRARY} is built by cargo (Rust) from the repository that this package is "
            "part of: install Rust, or a wheel, which has the library, or set SONEW_LIBRARY "
            "to a library that is already built"
        )
    print("sonew: cargo builds libsonew.so, which takes 70 s on two idle cores", file=sys.stderr)
    subprocess.run(["cargo", "build", "--release", "--lib"], cwd=repository, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", repository / "target"))
    return (repository / target / "release" / LIBRARY).resolve()


def linked(repository):
    """The licences of what is linked into the library, with the names of the crates."""
    if not shutil.which("cargo"):
        return
    run = lambda *command: subprocess.run(
        command, cwd=repository, check=True, capture_output=True, text=True
    ).stdout
    tree = run("cargo", "tree", "--package=sonew", "--edges=normal", "--prefix=none", "--format={p}", "--target=all")
    names = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    for package in json.loads(run("cargo", "metadata", "--format-version=1"))["packages"]:
        if package["source"] and (package["name"], f"v{package['version']}") in names:
            name = f"{package['name']}-{package['version']}"
            folder = Path(package["manifest_path"]).parent
            texts = [p for p in folder.iterdir() if p.is_file() and p.name.upper().startswith(TEXTS)]
            if not texts:
                raise SystemExit(f"the crate {name} is linked into the library, and has no licence text")
            for path in texts:
                yield name, path
    sysroot = Path(run("rustc", "--print", "sysroot").strip())
    # Rust of a distribution has it elsewhere, or not at all.
    copyright = sysroot / "share" / "doc" / "rust" / "COPYRIGHT-library.html"
    if copyright.is_file():
        yield "rust", copyright
