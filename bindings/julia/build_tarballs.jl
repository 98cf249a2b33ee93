# The recipe of libsonew_jll, the library in binary form for Julia's package manager, for
# https://github.com/JuliaPackaging/Yggdrasil. To try it, with Julia and BinaryBuilder.jl:
#
#     julia build_tarballs.jl --verbose x86_64-linux-gnu
#
# The package is told where the library is by the preference `library`:
#
#     using Preferences, libsonew_jll
#     set_preferences!("SONew", "library" => libsonew_jll.libsonew_path)

using BinaryBuilder

name = "libsonew"
version = v"0.2.0"

# The repository, two folders up: for Yggdrasil a GitSource of the released commit.
sources = [DirectorySource(joinpath(@__DIR__, "..", ".."); follow_symlinks = false)]

script = raw"""
cd ${WORKSPACE}/srcdir
cargo build --release --package sonew --package sonew-library
library="target/${rust_target}/release/libsonew.${dlext}"
install -Dvm 755 "$library" "${libdir}/libsonew.${dlext}"
install -Dvm 644 include/sonew.h "${includedir}/sonew.h"
install_license LICENSE-APACHE LICENSE-MIT
"""

# Rust names the target; kernels choose their instruction set at run time.
platforms = [
    Platform("x86_64", "linux"; libc = "glibc"),
    Platform("aarch64", "linux"; libc = "glibc"),
]

products = [LibraryProduct("libsonew", :libsonew), FileProduct("include/sonew.h", :sonew_h)]

dependencies = Dependency[]

build_tarballs(ARGS, name, version, sources, script, platforms, products, dependencies;
               compilers = [:c, :rust], julia_compat = "1.6", preferred_gcc_version = v"8")
