//! Sets the soname of the shared library.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR"));
    if variable("CARGO_CFG_TARGET_OS") == "linux" {
        set_soname(&out);
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

/// Sets the soname: the name by which linked programs look for the library.
fn set_soname(out: &Path) {
    // Before 1.0, minor versions are incompatible with each other.
    let soname = match variable("CARGO_PKG_VERSION_MAJOR").as_str() {
        "0" => format!("libsonew.so.0.{}", variable("CARGO_PKG_VERSION_MINOR")),
        major => format!("libsonew.so.{major}"),
    };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    // With nodelete, dlclose() does not unload the library. Threads of the host
    // may have destructors of thread-locals in it, and its code must not be
    // removed while one of them may still run.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // A symbolic link with that name beside the library lets programs run
    // without installing it. OUT_DIR is normally
    // target/<profile>/build/<package>/out; elsewhere no link is made.
    #[cfg(unix)]
    if let Some(profile) = out.ancestors().nth(3) {
        let _ = std::os::unix::fs::symlink("libsonew.so", profile.join(soname));
    }
}
