//! The C API from C: the header compiles everywhere, the programs in
//! `tests/c` and the C example run, also under Valgrind where there is one.

use std::fs;
use std::process::Command;

mod programs;

use programs::{
    built, cc, compile, exists, not_tested, root, run, soname, valgrind, valgrind_portable,
    valgrind_with, WARNINGS,
};

const HEADERS: [&str; 2] = ["include/sonew.h", "include/sonew_xla.h"];

/// The text of a header.
fn text(name: &str) -> String {
    fs::read_to_string(root(name)).unwrap()
}

const USAGE: [&str; 4] = [
    "tests/c/usage.c",
    "tests/c/usage_files.c",
    "tests/c/usage_plans.c",
    "tests/c/usage_program.c",
];

const REFUSALS: [&str; 11] = [
    "tests/c/refusals.c",
    "tests/c/refusals_create.c",
    "tests/c/refusals_step.c",
    "tests/c/refusals_plan.c",
    "tests/c/refusals_file.c",
    "tests/c/refusals_names.c",
    "tests/c/refusals_other.c",
    "tests/c/refusals_typed.c",
    "tests/c/refusals_live.c",
    "tests/c/refusals_shards.c",
    "tests/c/refusals_program.c",
];

fn folder(test: &str) -> std::path::PathBuf {
    programs::folder("capi", test)
}

#[test]
fn header_compiles_alone_as_c_and_cpp() {
    let compilers = [
        ("cc", "c", ["c99", "c11", "c17"]),
        ("clang", "c", ["c99", "c11", "c17"]),
        ("g++", "c++", ["c++11", "c++14", "c++17"]),
        ("clang++", "c++", ["c++11", "c++14", "c++17"]),
    ];
    for (compiler, language, standards) in compilers {
        if compiler != "cc" && !exists(compiler) {
            not_tested(&format!(
                "there is no {compiler} to compile the header with"
            ));
            continue;
        }
        for standard in standards {
            run(Command::new(compiler)
                .args(["-fsyntax-only", "-x", language])
                .arg(format!("-std={standard}"))
                .args(WARNINGS)
                .args(HEADERS.map(root)));
        }
    }
}

/// The program at the top of the header is one in C and in C++.
#[test]
fn the_example_of_the_header_compiles() {
    let header = text(HEADERS[0]);
    let (introduction, _) = header.split_once("#ifndef").unwrap();
    let code = introduction
        .lines()
        .filter_map(|line| line.strip_prefix(" *    "));
    let code: Vec<&str> = code.collect();
    assert!(code.len() > 30 && code.len() < 45, "{}", code.len());
    let source = folder("example").join("example.c");
    let around = "#include <sonew.h>\n#include <stdio.h>\n#include <stdlib.h>\n\
        static float weight[1000 * 784], bias[1000], weight_grad[1000 * 784], bias_grad[1000];\n\
        static void compute_gradients(const float *w, const float *b, float *dw, float *db) {\n\
            dw[0] = w[0];\n    db[0] = b[0];\n}\n\
        int main(void) {\n";
    fs::write(&source, format!("{around}{}\n}}\n", code.join("\n"))).unwrap();
    let compilers = [
        ("cc", "c", "c99"),
        ("clang", "c", "c99"),
        ("g++", "c++", "c++17"),
        ("clang++", "c++", "c++17"),
    ];
    for (compiler, language, standard) in compilers {
        if exists(compiler) {
            run(Command::new(compiler)
                .args(["-fsyntax-only", "-x", language])
                .arg(format!("-std={standard}"))
                .args(WARNINGS.iter().filter(|w| !w.contains("shadow")))
                .arg(format!("-I{}", root("include").display()))
                .arg(&source));
        }
    }
}

#[test]
fn every_function_can_be_used_from_c() {
    let folder = folder("usage");
    let program = compile(&mut cc(), "c99", &USAGE, &folder);
    assert_eq!(run(Command::new(&program).arg(&folder)), "all used\n");
    valgrind_portable(&program, &[&folder]);
    valgrind(&program, &[&folder]);
}

#[test]
fn every_function_can_be_used_from_cpp() {
    if !exists("g++") {
        not_tested("there is no g++ to compile C++ with");
        return;
    }
    let folder = folder("usage_cpp");
    let program = folder.join("program");
    run(Command::new("g++")
        .args(["-std=c++11", "-pthread", "-I"])
        .arg(root("include"))
        .args(WARNINGS)
        .args(["-x", "c++"])
        .args(USAGE.map(root))
        // The library, which follows, is not C++.
        .args(["-x", "none"])
        .arg(folder.join(soname()))
        .arg(format!("-Wl,-rpath,{}", folder.display()))
        .arg("-o")
        .arg(&program));
    assert_eq!(run(Command::new(program).arg(&folder)), "all used\n");
}

#[test]
fn refused_calls_say_why_and_change_nothing() {
    let folder = folder("refusals");
    let program = compile(&mut cc(), "c99", &REFUSALS, &folder);
    let printed = run(Command::new(&program).arg(&folder));
    assert!(printed.ends_with(" calls refused\n"), "{printed}");
    valgrind(&program, &[&folder]);
}

#[test]
fn steps_in_stages() {
    let folder = folder("stages");
    let program = compile(&mut cc(), "c99", &["tests/c/stages.c"], &folder);
    let printed = run(Command::new(&program).arg(&folder));
    assert_eq!(printed, "stages make a step\n");
    valgrind(&program, &[&folder]);
}

#[test]
fn partial_sums() {
    let folder = folder("partial_sums");
    let program = compile(&mut cc(), "c99", &["tests/c/partial_sums.c"], &folder);
    let printed = run(Command::new(&program).arg(&folder));
    assert_eq!(printed, "sums of two machines make one\n");
    valgrind(&program, &[&folder]);
}

#[test]
fn lists_of_floats_need_no_cast() {
    let folder = folder("lists");
    let program = compile(&mut cc(), "c11", &["tests/c/lists.c"], &folder);
    assert_eq!(run(Command::new(&program).arg(&folder)), "no casts\n");
}

#[test]
fn a_program_with_fast_math_is_told_whether_there_is_a_norm() {
    let folder = folder("norm");
    let compiler = &mut cc();
    let program = compile(
        compiler.arg("-ffast-math"),
        "c99",
        &["tests/c/norm.c"],
        &folder,
    );
    assert_eq!(run(Command::new(&program).arg(&folder)), "a norm or none\n");
}

/// What is no list of pointers does not compile.
#[test]
fn a_buffer_is_no_list() {
    let source = folder("no_list").join("no_list.c");
    let call = |params: &str, grads: &str| {
        let program = format!(
            "#include <sonew.h>\nint call(sonew_optimizer *o, float *w, const float *g, float **l) \
             {{ (void)w; (void)g; (void)l; return sonew_step(o, NULL, {params}, {grads}, 1); }}\n"
        );
        fs::write(&source, program).unwrap();
        let mut cc = cc();
        let cc = cc.args(["-fsyntax-only", "-std=c11", "-Wall", "-Werror", "-I"]);
        cc.arg(root("include"))
            .arg(&source)
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(call("l", "l"));
    assert!(!call("w", "l") && !call("l", "w") && !call("l", "g") && !call("&l", "l"));
}

#[test]
fn one_optimizer_in_two_threads() {
    let folder = folder("threads");
    let program = compile(&mut cc(), "c99", &["tests/c/threads.c"], &folder);
    assert_eq!(run(&mut Command::new(program)), "counts add up\n");
}

#[test]
fn a_live_file_is_not_for_forked_children() {
    let folder = folder("fork");
    let program = compile(&mut cc(), "c99", &["tests/c/fork.c"], &folder);
    assert_eq!(
        run(Command::new(&program).arg(&folder)),
        "the parent's own\n"
    );
    // A child loses what the threads had that did not come along.
    valgrind_with(&["--leak-check=no"], &program, &[&folder]);
}

#[test]
fn the_floating_point_mode_of_the_caller_changes_nothing() {
    let folder = folder("float_mode");
    let program = compile(&mut cc(), "c99", &["tests/c/float_mode.c"], &folder);
    assert_eq!(run(Command::new(program).arg(&folder)), "modes kept\n");
}

/// The losses that the example prints.
fn losses(printed: &str) -> Vec<f64> {
    let words: Vec<_> = printed.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| pair[0] == "loss");
    pairs.map(|pair| pair[1].parse().unwrap()).collect()
}

#[test]
fn the_example_fits_a_line() {
    let folder = folder("fit");
    let program = compile(&mut cc(), "c99", &["examples/c/fit.c"], &folder);
    let printed = run(&mut Command::new(&program));
    let losses = losses(&printed);
    assert_eq!(losses.len(), 11, "{printed}");
    // The points are 0.1 sin off a line: their least squares are 0.005.
    assert!(losses[0] > 1.0 && losses[10] < 0.0055, "{printed}");
    valgrind(&program, &[]);
}

#[test]
fn the_example_links_with_the_static_library() {
    let folder = folder("static");
    let program = folder.join("program");
    run(cc()
        .args(["-std=c99", "-I"])
        .arg(root("include"))
        .arg(root("examples/c/fit.c"))
        .arg(built().join("libsonew.a"))
        .args(["-lm", "-lpthread", "-ldl", "-o"])
        .arg(&program));
    assert_eq!(losses(&run(&mut Command::new(program))).len(), 11);
}

/// Names of functions that the headers declare.
fn declared() -> Vec<String> {
    let headers = HEADERS.map(text);
    let mut names: Vec<_> = headers
        .iter()
        .flat_map(|header| header.lines())
        .filter(|line| !line.starts_with([' ', '#', '/']))
        .filter_map(|line| line.split('(').next()?.split([' ', '*']).next_back())
        .filter(|name| name.starts_with("sonew_"))
        .map(str::to_owned)
        .collect();
    names.retain(|name| !name.ends_with(';'));
    names.sort();
    names
}

#[test]
fn only_what_the_header_declares_is_exported() {
    let folder = folder("symbols");
    let printed = run(Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(folder.join(soname())));
    let exported = printed.lines().filter_map(|line| line.split(' ').nth(2));
    let mut exported: Vec<_> = exported.map(str::to_owned).collect();
    exported.sort();
    assert!(exported.len() > 30);
    assert_eq!(exported, declared());
}

#[test]
fn the_library_has_its_soname() {
    let library = folder("soname").join(soname());
    let printed = run(Command::new("readelf").arg("-d").arg(library));
    let entry = printed
        .lines()
        .find(|line| line.contains("(SONAME)"))
        .unwrap();
    assert!(entry.ends_with(&format!("[{}]", soname())), "{entry}");
}

/// A program may keep a status, or a value of an option, in a variable of its
/// type, and pass it where the header has an int32_t.
#[test]
fn enumerations_convert_to_int32_without_warnings() {
    let source = folder("enumerations").join("enumerations.c");
    let mut program = "#include <sonew.h>\n".to_owned();
    let header = text(HEADERS[0]);
    let types: Vec<_> = header
        .lines()
        .filter_map(|line| line.strip_prefix("typedef int32_t ")?.strip_suffix(';'))
        .collect();
    assert_eq!(types.len(), 13, "{types:?}");
    program += "int32_t kept(int32_t value); int32_t kept(int32_t value) { return value; }\n";
    program += "const char *name(sonew_status status); const char *name(sonew_status status) \
                { return sonew_status_name(status); }\n";
    for name in types {
        program += &format!(
            "int32_t from_{name}({name} value); int32_t from_{name}({name} value) \
             {{ {name} again = kept(value); return again; }}\n"
        );
    }
    fs::write(&source, program).unwrap();
    for (compiler, language, standard) in [
        ("gcc", "c", "c99"),
        ("clang", "c", "c99"),
        ("g++", "c++", "c++11"),
        ("clang++", "c++", "c++11"),
    ] {
        if !exists(compiler) {
            not_tested(&format!(
                "there is no {compiler} to convert enumerations with"
            ));
            continue;
        }
        run(Command::new(compiler)
            .args(["-fsyntax-only", "-x", language, "-I"])
            .arg(root("include"))
            .arg(format!("-std={standard}"))
            .args(WARNINGS)
            .arg("-Wsign-conversion")
            .arg(&source));
    }
}

/// Every status has its name, and every number is there once.
#[test]
fn statuses_have_names() {
    let header = text(HEADERS[0]);
    let enumerations = header.split("\nenum {").skip(1);
    let bodies = enumerations.map(|text| text.split("\n};").next().unwrap());
    let is_of_statuses = |body: &&str| body.contains("SONEW_OK = 0");
    let body = bodies.into_iter().find(is_of_statuses).unwrap();
    let statuses: Vec<(&str, i32)> = body
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(name, number)| (name, number.parse().unwrap()))
        .collect();
    assert!(statuses.len() > 30);
    let checks: String = statuses
        .iter()
        .map(|(name, number)| {
            format!(
                "CHECK({name} == {number} && !strcmp(sonew_status_name({number}), \"{name}\"));"
            )
        })
        .collect();
    let folder = folder("statuses");
    let source = folder.join("statuses.c");
    let include = root("tests/c/check.h");
    let program = format!(
        "#include \"{}\"\nint main(void) {{ {checks} }}",
        include.display()
    );
    fs::write(&source, program).unwrap();
    let program = compile(&mut cc(), "c99", &[source.to_str().unwrap()], &folder);
    run(&mut Command::new(program));
    let mut numbers: Vec<_> = statuses.iter().map(|(_, number)| number).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), statuses.len());
}
