//! The files, tests and link targets that the pages in `docs/` name exist.

use std::fs;
use std::path::{Path, PathBuf};

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

/// The files exist that links of a page point to.
#[test]
fn links_lead_somewhere() {
    let mut pages: Vec<PathBuf> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|x| x == "md"))
        .collect();
    let others = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "benches/README.md",
        "bindings/python/README.md",
        "bindings/python/jax.md",
        "bindings/python/torch.md",
        "bindings/julia/SONew/README.md",
    ];
    pages.extend(others.map(|page| root().join(page)));
    let mut links = 0;
    for page in pages {
        for (target, _) in read(&page)
            .split("](")
            .skip(1)
            .filter_map(|x| x.split_once(')'))
        {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap();
            let path = page.parent().unwrap().join(file);
            assert!(path.exists(), "{}: no {target}", page.display());
            links += 1;
        }
    }
    assert!(links > 30, "{links}");
}
