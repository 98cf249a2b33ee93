//! Programs in C and C++, compiled and run against the library.

#![allow(dead_code)] // Every test uses some of it.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
pub const WARNINGS: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"];

pub fn root(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// Where cargo puts the libraries that the tests link with.
pub fn built() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent().unwrap().to_owned()
}

pub fn soname() -> String {
    match env!("CARGO_PKG_VERSION_MAJOR") {
        "0" => concat!("libsonew.so.0.", env!("CARGO_PKG_VERSION_MINOR")).to_owned(),
        major => format!("libsonew.so.{major}"),
    }
}

/// A fresh folder for one test, with the library under its soname in it.
pub fn folder(suite: &str, test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(suite)
        .join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let library = built().join("libsonew.so");
    assert!(library.exists(), "{} is missing", library.display());
    fs::copy(library, folder.join(soname())).unwrap();
    folder
}

/// Runs a command and returns what it printed; it must succeed.
pub fn run(command: &mut Command) -> String {
    // Cargo sets it to where a library of another profile may be, and it goes
    // before what is linked into the program.
    command.env_remove("LD_LIBRARY_PATH");
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{command:?}\n{status}\n{out}\n{err}");
    assert!(!err.contains("warning"), "{command:?}\n{err}");
    out
}

/// Reports what was not tested, even if the test passes: the harness captures what
/// is printed by macros, but not what is written to standard error directly.
pub fn not_tested(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}");
}

pub fn exists(tool: &str) -> bool {
    Command::new(tool)
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success())
}

/// A compiler that must be there: cc, or what CC says.
pub fn cc() -> Command {
    Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

/// Compiles a program against the shared library.
pub fn compile(compiler: &mut Command, standard: &str, sources: &[&str], folder: &Path) -> PathBuf {
    let program = folder.join("program");
    run(compiler
        .arg(format!("-std={standard}"))
        .args(WARNINGS)
        .args(["-g", "-O1", "-pthread", "-I"])
        .arg(root("include"))
        .args(sources.iter().map(|source| root(source)))
        .arg("-o")
        .arg(&program)
        .arg(folder.join(soname()))
        .arg(format!("-Wl,-rpath,{}", folder.display()))
        .arg("-lm"));
    program
}

/// Runs a program under Valgrind, if there is one, with the best instruction
/// set that it emulates.
pub fn valgrind(program: &Path, arguments: &[&Path]) {
    valgrind_with(&LEAKS, program, arguments);
}

/// The same on the plain code: the core without vector instructions.
pub fn valgrind_portable(program: &Path, arguments: &[&Path]) {
    let environment = [("SONEW_INSTRUCTION_SET", "portable")];
    run_valgrind(&environment, &LEAKS, program, arguments);
}

const LEAKS: [&str; 2] = [
    "--leak-check=full",
    "--errors-for-leak-kinds=definite,possible",
];

pub fn valgrind_with(options: &[&str], program: &Path, arguments: &[&Path]) {
    run_valgrind(&[], options, program, arguments);
}

/// The environment is the program's alone: tests that run beside it keep theirs.
fn run_valgrind(
    environment: &[(&str, &str)],
    options: &[&str],
    program: &Path,
    arguments: &[&Path],
) {
    if !exists("valgrind") {
        not_tested(&format!(
            "there is no valgrind to run {} with",
            program.display()
        ));
        return;
    }
    run(Command::new("valgrind")
        .envs(environment.iter().copied())
        // A fair scheduler, so that a thread that retries in a loop cannot keep
        // the other from finishing.
        .args(["--quiet", "--error-exitcode=9", "--fair-sched=yes"])
        .arg(format!(
            "--suppressions={}",
            root("tests/c/valgrind.supp").display()
        ))
        .args(options)
        .arg(program)
        .args(arguments));
}
