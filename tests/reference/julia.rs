//! `docs/julia-api.md`, from the docstrings of the Julia package. They are
//! Markdown already.

use std::fs;

/// The package's files, in the order of the page.
const FILES: [&str; 18] = [
    "rule",
    "optimizer",
    "step",
    "planes",
    "files",
    "texts",
    "info",
    "errors",
    "tree",
    "plan",
    "pool",
    "structs",
    "bfloat16",
    "library",
    "memory",
    "handles",
    "copies",
    "workload",
];

const HEAD: &str = "\
<!-- Made from the docstrings of bindings/julia/SONew by tests/reference. -->
# SONew for Julia: the reference

[The README](../bindings/julia/SONew/README.md) describes how to install and use the
package, [method.md](method.md) explains the method and its options, and
[choosing.md](choosing.md) which values to choose. Names without `SONew.` are exported.
";

/// The docstrings of a file: the signatures that each documents, and the text.
fn docstrings(source: &str) -> Vec<(Vec<&str>, String)> {
    let mut found = Vec::new();
    let mut lines = source.lines();
    while lines.any(|line| line == "\"\"\"") {
        let mut body = lines
            .by_ref()
            .take_while(|&line| line != "\"\"\"")
            .peekable();
        let mut calls = Vec::new();
        while let Some(line) = body.next_if(|line| line.starts_with("    ")) {
            calls.push(line.strip_prefix("    ").unwrap());
        }
        let text: String = body.map(|line| line.to_owned() + "\n").collect();
        found.push((calls, text));
    }
    found
}

/// The page of a package, made from the docstrings in its files.
pub fn reference(read: impl Fn(&str) -> String) -> String {
    let mut page = HEAD.to_owned();
    for file in FILES {
        for (calls, text) in docstrings(&read(file)) {
            let name = calls[0].split(['(', '{', ' ']).next().unwrap();
            let text = text
                .replace("](@ref)", "]")
                .replace("[`", "`")
                .replace("`]", "`");
            // Headings in a docstring are one level below that of its entry.
            let text = text.replace("\n# ", "\n### ");
            page += &format!("\n## {name}\n\n```julia\n{}\n```\n{text}", calls.join("\n"));
        }
    }
    page
}

#[test]
fn of_julia() {
    let sources = super::root("bindings/julia/SONew/src");
    let page = reference(|file| fs::read_to_string(sources.join(format!("{file}.jl"))).unwrap());
    let package = fs::read_to_string(sources.join("SONew.jl")).unwrap();
    for file in package.lines().filter_map(|l| l.strip_prefix("include(\"")) {
        assert!(
            FILES.contains(&file.strip_suffix(".jl\")").unwrap()),
            "{file}"
        );
    }
    let exported = package.lines().filter_map(|l| l.strip_prefix("export "));
    let mut count = 0;
    for name in exported.flat_map(|names| names.split(", ")) {
        assert!(page.contains(&format!("\n## {name}\n")), "{name}");
        count += 1;
    }
    assert!(count > 15);
    super::up_to_date("docs/julia-api.md", &page);
}
