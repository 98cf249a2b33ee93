#!/usr/bin/env python3
"""Installs PyTorch for runs on the CPU into an environment: without CUDA's libraries.

    cpu_torch.py ENVIRONMENT [torch==VERSION]

The package that PyPI has for Linux is built for CUDA, and needs 4 GB of libraries beside it
to be imported, of which a run on the CPU calls nothing. Here it is installed without them,
and in their place come stand-ins: small libraries that define the functions which PyTorch's
refer to, each of which returns "no device" (100, cudaErrorNoDevice). Then
torch.cuda.is_available() is False, as on a machine without a GPU. A package that needs no
CUDA, as those for 64-bit Arm and of PyTorch's own index, gets no stand-ins.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# What "import torch" needs, besides CUDA and Triton, which compiles for GPUs.
NEEDED = "filelock typing-extensions>=4.13 setuptools>=77 sympy>=1.13.3 networkx jinja2 fsspec numpy"
CUDA = re.compile(r"lib(cu|nv|nccl)")


def main(environment, torch="torch"):
    python = Path(environment) / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", torch], check=True)
    # pip says that CUDA's packages are missing, as they are meant to be; it does not fail.
    done = subprocess.run([*pip, *NEEDED.split()], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    stand_in(Path(site.stdout.strip()) / "torch" / "lib")
    said = "import torch; assert not torch.cuda.is_available(); print('PyTorch', torch.__version__)"
    subprocess.run([python, "-c", said], check=True)


def stand_in(folder):
    """Makes the libraries that those in a folder need and that are not there."""
    there = {path.name for path in folder.glob("*.so*")}
    functions = {}
    loose = set()
    for path in folder.glob("*.so*"):
        needed, of_version, names = symbols(path)
        for name in needed - there:
            if CUDA.match(name):
                functions.setdefault(name, {})
        for name, version in names:
            library = of_version.get(version)
            if version is None:
                loose.add(name)
            elif library not in there and CUDA.match(library):
                functions.setdefault(library, {}).setdefault(version, set()).add(name)
    if not functions:
        return
    # Names without a version may be of any library; what is found elsewhere is found there
    # first only if it was loaded before, so names that another library defines are left out.
    for path in folder.glob("*.so*"):
        loose -= defined(path)
    loose = {name for name in loose if re.match(r"_*(cu|nv|nccl)", name)}
    for i, (library, versions) in enumerate(sorted(functions.items())):
        build(folder / library, library, versions, loose if i == 0 else set())


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbols(path):
    """The libraries that a library needs, which of them has which version, and the functions
    that it does not define, each with its version."""
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-dW", path)))
    of_version, library = {}, None
    for line in run("readelf", "-VW", path).splitlines():
        if found := re.search(r"File: (\S+)", line):
            library = found[1]
        elif found := re.search(r"Name: (\S+)\s+Flags", line):
            of_version[found[1]] = library
    names = set()
    for line in run("readelf", "--dyn-syms", "-W", path).splitlines():
        parts = line.split()
        if len(parts) >= 8 and parts[6] == "UND" and parts[4] == "GLOBAL":
            name, _, version = parts[7].partition("@")
            names.add((name, version.lstrip("@") or None))
    return needed, of_version, names


def defined(path):
    lines = run("readelf", "--dyn-syms", "-W", path).splitlines()
    parts = (line.split() for line in lines)
    return {p[7].partition("@")[0] for p in parts if len(p) >= 8 and p[6] not in ("UND", "Ndx")}


def build(path, soname, versions, loose):
    names = set().union(loose, *versions.values())
    source = "".join(f"int {name}(void) {{ return 100; }}\n" for name in sorted(names))
    script = "".join(
        f"{version} {{ global: {'; '.join(sorted(names))}; }};\n"
        for version, names in sorted(versions.items())
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "stand-in.c").write_text(source or "typedef int none;\n")
        Path(folder, "versions").write_text(script)
        command = ["cc", "-shared", "-fPIC", "-w", "-O1", "-fno-builtin", f"-Wl,-soname,{soname}"]
        if script:
            command.append("-Wl,--version-script=versions")
        run_in(folder, *command, "stand-in.c", "-o", str(path.resolve()))


def run_in(folder, *command):
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
