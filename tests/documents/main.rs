//! The files, tests, link targets and anchors that the pages name exist, and a test runs their blocks
//! of code.

mod blocks;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use blocks::{blocks, Block};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts in backquotes.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// In every table of the guarantees, the files of the second column exist and
/// contain the tests of the third.
#[test]
fn every_test_of_a_guarantee_is_there() {
    let page = read(&root().join("docs/guarantees.md"));
    let mut tests = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let ["", _, files, names, ""] = cells[..] else {
            panic!("not three columns: {row}");
        };
        if names == "test" {
            continue; // the head of a table
        }
        assert!(code(files).next().is_some(), "no file: {row}");
        let sources: String = code(files).map(|file| read(&root().join(file))).collect();
        for name in code(names) {
            let is_there = ["fn", "def"].map(|word| sources.contains(&format!("{word} {name}(")));
            assert!(is_there.contains(&true), "{files}: no test {name}");
            tests += 1;
        }
    }
    assert!(tests > 80, "{tests}");
}

/// Every promise of the page on state files names its tests, and they are there.
#[test]
fn every_test_of_a_promise_is_there() {
    let page = read(&root().join("docs/state-files.md"));
    let (_, promises) = page.split_once("## What is promised").unwrap();
    let mut sources = String::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|x| x == "rs") {
                sources += &read(&path);
            }
        }
    }
    let mut tests = 0;
    for row in promises.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let ["", promise, names, ""] = cells[..] else {
            continue; // another table
        };
        let named = code(names).next().is_some() || names.starts_with("the same");
        assert!(named || promise.is_empty(), "no test: {promise}");
        for path in code(names).filter(|text| text.contains('/')) {
            assert!(root().join(path).exists(), "no {path}");
        }
        let name = |text: &str| text.contains('_') && !text.contains(['/', '.']);
        for name in code(names).filter(|text| name(text)) {
            let test = format!("fn {name}(");
            assert!(sources.contains(&test), "no test {name}");
            tests += 1;
        }
    }
    assert!(tests > 40, "{tests}");
}

/// All pages that are written for readers, without those in `docs/` that are made from the source.
const PAGES: [&str; 18] = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benches/README.md",
    "bindings/julia/SONew/README.md",
    "bindings/python/README.md",
    "bindings/python/jax.md",
    "bindings/python/torch.md",
    "docs/README.md",
    "docs/benchmark.md",
    "docs/choosing.md",
    "docs/distributed.md",
    "docs/guarantees.md",
    "docs/inside-a-program.md",
    "docs/method.md",
    "docs/small-benchmarks.md",
    "docs/state-files.md",
    "docs/transformer.md",
];

/// References, which a test makes from the source and holds to it.
const REFERENCES: [&str; 6] = [
    "docs/c-api.md",
    "docs/cpp-api.md",
    "docs/jax-api.md",
    "docs/julia-api.md",
    "docs/python-api.md",
    "docs/torch-api.md",
];

#[test]
fn every_page_is_known() {
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|x| x == "md") {
            let name = format!("docs/{}", path.file_name().unwrap().to_str().unwrap());
            let all = || PAGES.iter().chain(&REFERENCES);
            assert!(all().any(|page| *page == name), "{name} is in no list here");
        }
    }
    // The site has them all.
    let summary = read(&root().join("docs/site/SUMMARY.md"));
    for page in PAGES.iter().chain(&REFERENCES) {
        let target = match page.strip_prefix("docs/") {
            Some(page) => format!("(../{page})"),
            None => format!("(../../{page})"),
        };
        assert!(
            summary.contains(&target),
            "docs/site/SUMMARY.md has no {page}"
        );
    }
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let parts = text.split("\n```");
    parts.step_by(2).collect::<Vec<_>>().join("\n")
}

/// The anchors of a page's headings, as code hosts make them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for heading in prose(text).lines().filter(|line| line.starts_with('#')) {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let title = title.replace("\\_", "_");
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = seen.entry(anchor.clone()).or_default();
        found.push(if *count == 0 {
            anchor
        } else {
            format!("{anchor}-{count}")
        });
        *count += 1;
    }
    found
}

/// The files and the anchors exist that links of a page point to.
#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for page in PAGES
        .iter()
        .chain(&REFERENCES)
        .chain(&["docs/site/SUMMARY.md"])
    {
        let path = root().join(page);
        let text = read(&path);
        let targets = prose(&text);
        let targets = targets
            .split("](")
            .skip(1)
            .filter_map(|x| x.split_once(')'));
        for (target, _) in targets.filter(|(target, _)| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(to.exists(), "{page}: no {target}");
            if !anchor.is_empty() {
                let there = anchors(&read(&to));
                assert!(
                    there.iter().any(|a| a == anchor),
                    "{page}: no anchor {target}"
                );
            }
            links += 1;
        }
    }
    assert!(links > 120, "{links}");
}

/// What runs the blocks of a language of a page: a file that names the page.
const RUN_BY: [(&str, &str, &str); 17] = [
    ("README.md", "sh", "tests/guest"),
    ("README.md", "c", "tests/pages/main.rs"),
    ("README.md", "cpp", "tests/cpp/main.rs"),
    ("README.md", "cmake", "tests/pages/main.rs"),
    ("README.md", "python", "bindings/python/tests/pages.py"),
    ("README.md", "julia", "bindings/julia/SONew/test/pages.jl"),
    ("README.md", "rust", "src/lib.rs"),
    (
        "bindings/julia/SONew/README.md",
        "julia",
        "bindings/julia/SONew/test/pages.jl",
    ),
    (
        "bindings/python/README.md",
        "sh",
        "bindings/python/tests/torch/test_pages.py",
    ),
    (
        "bindings/python/jax.md",
        "python",
        "bindings/python/tests/pages.py",
    ),
    (
        "bindings/python/torch.md",
        "python",
        "bindings/python/tests/pages.py",
    ),
    (
        "docs/distributed.md",
        "python",
        "bindings/python/tests/pages.py",
    ),
    ("docs/distributed.md", "sh", "tests/mpi"),
    ("docs/inside-a-program.md", "c", "tests/pages/main.rs"),
    ("docs/inside-a-program.md", "cpp", "tests/pages/main.rs"),
    ("docs/state-files.md", "python", "tests/python/blocks.py"),
    ("docs/state-files.md", "sh", "tool/tests/merge.rs"),
];

/// Every block of code is run by a test, or a comment before it says why not. (Those of the
/// references are made from the source.)
#[test]
fn every_block_is_run_or_says_why_not() {
    for page in PAGES {
        let is_code = |block: &&Block| !["text", "json"].contains(&&block.language[..]);
        for block in blocks(page).iter().filter(is_code) {
            if block.not_run.is_some() {
                continue;
            }
            let first = block.code.lines().next().unwrap_or("");
            let found = |(of, language, _): &&(&str, &str, &str)| {
                *of == page && *language == block.language
            };
            let (.., test) = RUN_BY
                .iter()
                .find(found)
                .unwrap_or_else(|| panic!("{page}: nothing runs `{first}`, or says why not"));
            let name = page.rsplit('/').next().unwrap();
            assert!(
                read(&root().join(test)).contains(name),
                "{test} names no {name}"
            );
        }
    }
}
