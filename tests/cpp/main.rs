//! The C++ binding under two compilers with a standard each, and the examples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../programs/mod.rs"]
mod programs;

use programs::{cc, compile, exists, folder, not_tested, root, run, soname, valgrind, WARNINGS};

const COMPILERS: [&str; 2] = ["g++", "clang++"];
const STANDARDS: [&str; 2] = ["c++17", "c++20"];

/// With optimization g++ finds more to warn of; clang++ does not, and is faster without.
fn flags(compiler: &str) -> [&'static str; 2] {
    ["-g", if compiler == "g++" { "-O1" } else { "-O0" }]
}

/// Compiles a program with every warning as an error.
fn compile_cpp(compiler: &str, standard: &str, source: &Path, folder: &Path) -> PathBuf {
    let program = folder.join("program");
    run(Command::new(compiler)
        .arg(format!("-std={standard}"))
        .args(WARNINGS)
        .args(flags(compiler))
        .args(["-pthread", "-isystem", "/usr/include/eigen3"])
        .arg(format!("-I{}", root("include").display()))
        .arg(format!("-I{}", root("bindings/cpp").display()))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .arg(folder.join(soname()))
        .arg(format!("-Wl,-rpath,{}", folder.display())));
    program
}

/// A compiler that looks at a source and makes nothing of it.
fn look(compiler: &str, standard: &str, source: &Path) -> Command {
    let mut command = Command::new(compiler);
    command
        .arg(format!("-std={standard}"))
        .args(["-fsyntax-only", "-isystem", "/usr/include/eigen3"])
        .arg(format!("-I{}", root("include").display()))
        .arg(format!("-I{}", root("bindings/cpp").display()))
        .arg(source);
    command
}

/// What a compiler says of a source that it refuses.
fn complaints(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} compiled\n{said}");
    said
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
    valgrind(&program, &[program.parent().unwrap()]);
}

#[test]
fn what_programs_need_can_be_used() {
    let source = root("tests/cpp/program.cpp");
    let program = everywhere("program", &source, |out| assert_eq!(out, "all used\n"));
    valgrind(&program, &[program.parent().unwrap()]);
}

#[test]
fn bad_input_throws_and_says_why() {
    let source = root("tests/cpp/refusals.cpp");
    let program = everywhere("refusals", &source, |out| assert_eq!(out, "all refused\n"));
    valgrind(&program, &[program.parent().unwrap()]);
}

/// What is one run of elements is a buffer; of what is not, each line is refused with the
/// words that stand beside it.
fn only_runs_are_buffers(name: &str) {
    let source = root(&format!("tests/cpp/{name}.cpp"));
    everywhere(name, &source, |out| assert_eq!(out, "all accepted\n"));
    let text = fs::read_to_string(&source).unwrap();
    let mut lines: Vec<_> = (1..).zip(text.lines()).collect();
    lines.retain(|(_, line)| line.contains("// no: "));
    assert!(lines.len() > 8, "{}", lines.len());
    for (compiler, standard) in COMPILERS.into_iter().zip(STANDARDS) {
        if !exists(compiler) {
            continue; // It was named above.
        }
        let mut command = look(compiler, standard, &source);
        command.args(["-DREFUSED", "-w"]);
        if compiler == "clang++" {
            command.arg("-ferror-limit=0");
        }
        let said = complaints(&mut command);
        let errors: Vec<_> = said.lines().filter(|l| l.contains("error: ")).collect();
        // One error for each line, which leads there, and no others.
        for (number, line) in &lines {
            let here = format!("{name}.cpp:{number}:");
            assert!(said.contains(&here), "{compiler} took {line}\n{said}");
        }
        assert_eq!(errors.len(), lines.len(), "{compiler}: {errors:#?}");
        for words in [
            "contiguous",
            "pointer does not know",
            "elements are float",
            "temporary",
            "const",
        ] {
            let expected = format!("// no: {words}");
            let expected = lines.iter().filter(|(_, line)| line.ends_with(&expected));
            let message = |line: &&&str| line.contains("sonew: ") && line.contains(words);
            let found = errors.iter().filter(message);
            // "const" is not a word of the others: their messages have "contiguous".
            assert_eq!(found.count(), expected.count(), "{words}: {errors:#?}");
        }
    }
}

#[test]
fn only_one_run_of_elements_is_a_buffer() {
    only_runs_are_buffers("contiguous");
}

/// A header of another library, or a report that it is missing.
fn has(header: &str, package: &str) -> bool {
    let source = folder("cpp", &format!("has_{package}")).join("has.cpp");
    fs::write(&source, format!("#include <{header}>\n")).unwrap();
    let there = look("g++", "c++17", &source)
        .output()
        .is_ok_and(|out| out.status.success());
    if !there {
        not_tested(&format!(
            "there is no <{header}>: install the package {package}"
        ));
    }
    there
}

#[test]
fn eigen_matrices_are_buffers_and_strided_ones_are_not() {
    if has("Eigen/Dense", "libeigen3-dev") {
        only_runs_are_buffers("eigen");
    }
}

#[test]
fn armadillo_matrices_are_buffers_and_views_are_not() {
    if has("armadillo", "libarmadillo-dev") {
        only_runs_are_buffers("armadillo");
    }
}

/// Older C++, and C++ without exceptions, get one sentence that says what to use.
#[test]
fn other_kinds_of_cpp_are_refused_in_one_sentence() {
    let source = folder("cpp", "one_sentence").join("empty.cpp");
    fs::write(&source, "#include <sonew.hpp>\n").unwrap();
    for compiler in COMPILERS.into_iter().filter(|c| exists(c)) {
        let cases = [
            ("c++14", "-fexceptions", "needs C++17"),
            ("c++17", "-fno-exceptions", "needs exceptions"),
        ];
        for (standard, flag, words) in cases {
            let said = complaints(look(compiler, standard, &source).arg(flag));
            assert_eq!(said.matches("error: ").count(), 1, "{said}");
            assert!(said.contains(words) && said.contains("sonew.h."), "{said}");
        }
    }
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

#[test]
fn the_example_on_eigen_matrices_trains_and_resumes() {
    if !has("Eigen/Dense", "libeigen3-dev") {
        return;
    }
    let folder = folder("cpp", "train_eigen");
    for compiler in COMPILERS.into_iter().filter(|c| exists(c)) {
        let source = root("examples/cpp/eigen.cpp");
        let program = compile_cpp(compiler, "c++17", &source, &folder);
        learns_and_resumes(&run(Command::new(program).current_dir(&folder)));
    }
}

/// Compiles a program with OpenMP.
fn with_openmp(source: &str, folder: &Path) -> PathBuf {
    let flags = ["-O3", "-fopenmp"];
    compile(cc().args(flags), "c99", &[source], folder)
}

/// Two threads that do not spin while other tests run.
fn on_two_threads(program: &Path, folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.env("OMP_NUM_THREADS", "2");
    command.env("OMP_WAIT_POLICY", "PASSIVE");
    run(command.args(arguments).current_dir(folder))
}

#[test]
fn the_transformer_in_c_trains_and_resumes() {
    let folder = folder("cpp", "transformer");
    let program = with_openmp("examples/c/transformer.c", &folder);
    // On this project's own documents, and on another text.
    let readme = root("README.md");
    let readme = readme.to_str().unwrap();
    for (steps, others) in [(10, vec![]), (4, vec![readme, "other"])] {
        let option = format!("--steps={steps}");
        let printed = on_two_threads(
            &program,
            &folder,
            &[&[option.as_str()], &others[..]].concat(),
        );
        let losses = losses(&printed);
        assert_eq!(losses.len(), 2 * steps + steps / 2, "{printed}");
        let (adam, sonew) = (&losses[..steps], &losses[steps..2 * steps]);
        // Of 90 characters, guessing gives 4.5.
        for own in [adam, sonew] {
            assert!(own[0] < 6.0 && own[steps - 1] < own[0] - 0.1, "{printed}");
            assert!(steps < 10 || own[9] < 3.8, "{printed}");
        }
        assert_eq!(&sonew[steps / 2..], &losses[2 * steps..], "{printed}");
        assert!(printed.ends_with("the same parameters, bit by bit\n"));
    }
    assert!(folder.join("transformer.safetensors").exists() && folder.join("other").exists());
}

#[test]
fn the_gradient_of_the_transformer_in_c_is_that_of_its_loss() {
    let folder = folder("cpp", "transformer_gradient");
    let program = with_openmp("tests/c/transformer_gradient.c", &folder);
    let printed = on_two_threads(&program, &folder, &[]);
    assert!(printed.ends_with("every gradient agrees\n"), "{printed}");
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
