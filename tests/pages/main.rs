//! The blocks of C and C++ in the documents, compiled and run as they stand there: each is a file
//! that `c.c` or `cpp.cpp` beside this one includes where a program would have these lines.
//! `tests/documents/main.rs` says which test runs the blocks of other languages.

#[path = "../documents/blocks.rs"]
mod blocks;
#[path = "../programs/mod.rs"]
mod programs;

use std::fs;
use std::process::Command;

use blocks::{blocks, Block};
use programs::{cc, compile, exists, folder, root, run};

/// A page, words of a block, and the name of the file that it becomes.
type Included = (&'static str, &'static str, &'static str);

const C: [Included; 10] = [
    ("README.md", "two scalars", "readme"),
    ("docs/c-api.md", "plain Adam", "first"),
    ("docs/c-api.md", "void *params[16];", "flat"),
    ("docs/c-api.md", "settings.lr_scale", "settings"),
    ("docs/c-api.md", "sonew_file_open(\"step", "file"),
    (
        "docs/c-api.md",
        "sonew_stages_begin(optimizer, &step",
        "stages",
    ),
    ("docs/c-api.md", "of_blocks", "blocks"),
    ("docs/c-api.md", "MPI_Iallreduce", "sums"),
    ("docs/inside-a-program.md", "names[l]", "stack"),
    ("docs/inside-a-program.md", "is_stack[i]", "allocation"),
];

const CPP: [Included; 7] = [
    ("docs/cpp-api.md", "compute_gradients", "first"),
    ("docs/cpp-api.md", "Eigen::bfloat16", "type"),
    ("docs/cpp-api.md", "pool.get()", "options"),
    ("docs/cpp-api.md", "MPI_MAX", "stages"),
    ("docs/cpp-api.md", "flat_params(all)", "flat"),
    ("docs/cpp-api.md", "sonew::File file", "file"),
    ("docs/inside-a-program.md", "torch::Tensor", "torch"),
];

/// Those of a language that are lines of a program. The references have declarations, too, in the
/// same kind of block, and formulas and lists; what is a program there is a comment of a header.
fn programs_of(page: &str, language: &str, headers: &[String]) -> Vec<Block> {
    let is_reference = page.ends_with("-api.md");
    let of_program = |block: &Block| {
        let first = block.code.lines().next().unwrap().trim();
        let comment = |line: &str| line.trim().starts_with(['*', '/']) && line.ends_with(first);
        let mut lines = headers.iter().flat_map(|header| header.lines());
        !is_reference || block.code.contains(";\n") && lines.any(comment)
    };
    let all = blocks(page).into_iter();
    all.filter(|block| block.language == language && of_program(block))
        .collect()
}

fn as_files(included: &[Included], language: &str, folder: &std::path::Path) {
    let headers = [
        "include/sonew.h",
        "include/sonew_xla.h",
        "bindings/cpp/sonew.hpp",
    ]
    .map(|path| fs::read_to_string(root(path)).unwrap());
    let mut pages: Vec<_> = included.iter().map(|(page, ..)| *page).collect();
    pages.dedup();
    for page in pages {
        let mut left = programs_of(page, language, &headers);
        for (_, words, name) in included.iter().filter(|(of, ..)| *of == page) {
            let is_it = |block: &Block| block.code.contains(words);
            let found = left.iter().position(is_it);
            let code = left.remove(found.unwrap_or_else(|| panic!("{page}: no block has {words}")));
            // What stands for lines of the program; and fewer steps are enough.
            let code = code.code.replace("\n...\n", "\n");
            let code = code.replace("\n...  ", "\n");
            let code = code.replace(
                "/* ... compute grad_a",
                "grad_a = a - 1, grad_b = b - 1; /* grad_a",
            );
            let code = code
                .replace("i < 1000;", "i < 20;")
                .replace("i % 100 == 99", "i % 10 == 9");
            fs::write(folder.join(format!("{name}.inc")), code).unwrap();
        }
        assert!(left.is_empty(), "{page}: not compiled: {}", left[0].code);
    }
}

#[test]
fn blocks_of_c() {
    let folder = folder("pages", "c");
    as_files(&C, "c", &folder);
    let mut compiler = cc();
    compiler.arg("-I").arg(&folder);
    let program = compile(&mut compiler, "c99", &["tests/pages/c.c"], &folder);
    let said = run(Command::new(program).current_dir(&folder));
    assert!(said.ends_with("every block of C has run\n"), "{said}");
}

#[test]
fn blocks_of_cpp() {
    let folder = folder("pages", "cpp");
    as_files(&CPP, "cpp", &folder);
    assert!(exists("c++"), "there is no c++");
    let mut compiler = Command::new("c++");
    compiler
        .arg("-I")
        .arg(&folder)
        .arg("-I")
        .arg(root("bindings/cpp"));
    let program = compile(&mut compiler, "c++17", &["tests/pages/cpp.cpp"], &folder);
    let said = run(Command::new(program).current_dir(&folder));
    assert!(said.ends_with("every block of C++ has run\n"), "{said}");
}

/// The lines for CMake are those of a project that `tests/guest` builds.
#[test]
fn lines_for_cmake_are_those_of_the_example() {
    let example = fs::read_to_string(root("examples/cmake/CMakeLists.txt")).unwrap();
    let [block] = &blocks("README.md")
        .into_iter()
        .filter(|block| block.language == "cmake")
        .collect::<Vec<_>>()[..]
    else {
        panic!("not one block");
    };
    for line in block.code.lines() {
        let line = line.split('#').next().unwrap().trim();
        let line = line.replace("program", "in_c");
        assert!(example.contains(&line), "{line}");
    }
}
