//! The C++ binding under two compilers with a standard each, and the examples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../programs/mod.rs"]
mod programs;

use programs::{
    cc, compile, exists, folder, not_tested, root, run, soname, valgrind, valgrind_portable,
    WARNINGS,
};

const COMPILERS: [&str; 2] = ["g++", "clang++"];
const STANDARDS: [&str; 2] = ["c++17", "c++20"];

/// Compiles a program with every warning as an error.
fn compile_cpp(compiler: &str, standard: &str, source: &Path, folder: &Path) -> PathBuf {
    let program = folder.join("program");
    run(Command::new(compiler)
        .arg(format!("-std={standard}"))
        .args(WARNINGS)
        .args(["-g", "-O1", "-pthread"])
        .arg(format!("-I{}", root("include").display()))
        .arg(format!("-I{}", root("bindings/cpp").display()))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .arg(folder.join(soname()))
        .arg(format!("-Wl,-rpath,{}", folder.display())));
    program
}

/// Compiles and runs a program with both compilers, in the oldest standard and a newer one.
fn everywhere(name: &str, source: &Path, check: impl Fn(&str)) -> PathBuf {
    let folder = folder("cpp", name);
    let mut program = None;
    for (compiler, standard) in COMPILERS.into_iter().zip(STANDARDS) {
        if !exists(compiler) {
            not_tested(&format!("there is no {compiler} to compile {name} with"));
            continue;
        }
        let compiled = compile_cpp(compiler, standard, source, &folder);
        check(&run(Command::new(&compiled)
            .arg(&folder)
            .current_dir(&folder)));
        program = Some(compiled);
    }
    program.expect("there is a C++ compiler")
}

#[test]
fn everything_can_be_used() {
    let source = root("tests/cpp/usage.cpp");
    let program = everywhere("usage", &source, |out| assert_eq!(out, "all used\n"));
    valgrind_portable(&program, &[program.parent().unwrap()]);
    valgrind(&program, &[program.parent().unwrap()]);
}

#[test]
fn bad_input_throws_and_says_why() {
    let source = root("tests/cpp/refusals.cpp");
    let program = everywhere("refusals", &source, |out| assert_eq!(out, "all refused\n"));
    valgrind(&program, &[program.parent().unwrap()]);
}

/// The losses that an example prints.
fn losses(printed: &str) -> Vec<f64> {
    let words: Vec<_> = printed.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| pair[0] == "loss");
    pairs.map(|pair| pair[1].parse().unwrap()).collect()
}

/// The README shows a whole program, which is short and has no long lines.
#[test]
fn the_first_program_of_the_readme() {
    let readme = fs::read_to_string(root("README.md")).unwrap();
    let section = readme.split("\n## From C++\n").nth(1).unwrap();
    let code = section.split("```cpp\n").nth(1).unwrap();
    let code = code.split("```").next().unwrap();
    assert!(code.lines().count() < 30, "{}", code.lines().count());
    let source = folder("cpp", "readme_source").join("fit.cpp");
    fs::write(&source, code).unwrap();
    everywhere("readme", &source, |printed| {
        let losses = losses(printed);
        assert_eq!(losses.len(), 11, "{printed}");
        // The points are 0.1 sin off a line: their least squares are 0.005.
        assert!(losses[0] > 1.0 && losses[10] < 0.0055, "{printed}");
    });
}

/// A network learns, and continues from its checkpoint with the same bits.
fn learns_and_resumes(printed: &str) {
    let losses = losses(printed);
    assert_eq!(losses.len(), 14, "{printed}");
    assert!(losses[0] > 0.2 && losses[8] < 0.01, "{printed}");
    assert_eq!(losses[4..9], losses[9..], "{printed}");
    assert!(printed.ends_with("the same parameters, bit by bit\n"));
}

#[test]
fn the_cpp_example_trains_and_resumes() {
    let folder = folder("cpp", "train");
    for compiler in COMPILERS.into_iter().filter(|c| exists(c)) {
        let source = root("examples/cpp/train.cpp");
        let program = compile_cpp(compiler, "c++17", &source, &folder);
        learns_and_resumes(&run(Command::new(program).current_dir(&folder)));
    }
}

#[test]
fn the_example_of_steps_in_the_backward_pass_learns() {
    let source = root("examples/cpp/backward.cpp");
    everywhere("backward", &source, |printed| {
        let losses = losses(printed);
        assert_eq!(losses.len(), 5, "{printed}");
        assert!(losses[4] < 0.2 * losses[0], "{printed}");
        assert!(printed.ends_with("bit by bit\n"), "{printed}");
    });
}

#[test]
fn the_c_example_trains_and_resumes() {
    let folder = folder("cpp", "train_c");
    let program = compile(&mut cc(), "c99", &["examples/c/train.c"], &folder);
    learns_and_resumes(&run(Command::new(program).current_dir(&folder)));
}

/// Every function of the C API is used by the C++ header.
#[test]
fn every_c_function_is_covered() {
    let header = fs::read_to_string(root("include/sonew.h")).unwrap();
    let binding = fs::read_to_string(root("bindings/cpp/sonew.hpp")).unwrap();
    // Compilers that read the header know its structs.
    let declarations = header
        .lines()
        .filter(|line| !line.starts_with([' ', '#', '/']));
    let names =
        declarations.filter_map(|line| line.split('(').next()?.split([' ', '*']).next_back());
    let names: Vec<_> = names
        .filter(|name| name.starts_with("sonew_") && !name.ends_with(';'))
        .collect();
    assert!(names.len() > 35);
    for name in names {
        let used = [
            format!("{name}("),
            format!("({name}"),
            format!(" {name}>"),
            format!("{name},"),
        ];
        let covered =
            name == "sonew_struct_field" || used.iter().any(|used| binding.contains(used));
        assert!(covered, "{name} is not in bindings/cpp/sonew.hpp");
    }
}
