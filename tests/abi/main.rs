//! The binary interface that compiled programs rely on.
//! `symbols.txt` lists the exported functions, `layout.txt` every struct with
//! the offset and size of its fields, and every named number.
//!
//! Adding a line is a new feature. Removing or changing a line breaks compiled
//! programs and requires another soname (see "Version" in the header).

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

#[path = "../programs/mod.rs"]
mod programs;

use programs::{cc, compile, folder, root, run, soname};

const HEADER: &str = include_str!("../../include/sonew.h");

/// Compares with a committed list, or writes it.
fn committed(name: &str, found: &str) {
    let path = root("tests/abi").join(name);
    if std::env::var_os("SONEW_UPDATE_ABI").is_some() {
        fs::write(&path, found).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (old, new) = (lines(&listed), lines(found));
    let gone: Vec<_> = old.difference(&new).collect();
    let added: Vec<_> = new.difference(&old).collect();
    assert!(
        listed == found,
        "the library differs from tests/abi/{name}\n  gone: {gone:#?}\n  new: {added:#?}\nIf \
         compiled programs still work, update the list:\n    \
         SONEW_UPDATE_ABI=1 cargo test --test abi"
    );
}

#[test]
fn symbols() {
    let library = folder("abi", "symbols").join(soname());
    let printed = run(Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(library));
    let name = |line: &str| line.split(' ').next().unwrap().to_owned() + "\n";
    let names: BTreeSet<String> = printed.lines().map(name).collect();
    committed("symbols.txt", &names.into_iter().collect::<String>());
}

/// Structs of the header: name, and names of their fields.
fn structs() -> Vec<(&'static str, Vec<&'static str>)> {
    let bodies = HEADER.split("\nstruct ").skip(1);
    bodies
        .map(|text| {
            let (name, text) = text.split_once(" {").unwrap();
            let (body, _) = text.split_once("\n};").unwrap();
            let lines = body.lines().map(str::trim);
            let fields = lines.filter_map(|line| line.strip_suffix(';'));
            let field = |line: &'static str| {
                let last = line.split([' ', '*']).next_back().unwrap();
                last.split('[').next().unwrap()
            };
            (name, fields.map(field).collect())
        })
        .collect()
}

/// Named numbers: enumerators and limits.
fn numbers() -> Vec<&'static str> {
    let lines = HEADER.lines();
    let enumerators = lines.clone().filter_map(|line| {
        let (name, _) = line.strip_prefix("  ")?.split_once(" = ")?;
        name.starts_with("SONEW_").then_some(name)
    });
    let limits = lines.filter_map(|line| {
        let mut words = line.strip_prefix("#define ")?.split(' ');
        let (name, value) = (words.next()?, words.next()?);
        let version = name.starts_with("SONEW_VERSION");
        (!version && value.parse::<i64>().is_ok()).then_some(name)
    });
    enumerators.chain(limits).collect()
}

#[test]
fn layout() {
    let (structs, numbers) = (structs(), numbers());
    assert!(structs.len() >= 7 && numbers.len() > 60);
    let mut source =
        "#include <sonew.h>\n#include <stdio.h>\n#include <stddef.h>\nint main(void) {\n"
            .to_owned();
    for (name, fields) in structs {
        source += &format!("printf(\"{name}: %zu bytes\\n\", sizeof({name}));\n");
        for field in fields {
            source += &format!(
                "printf(\"{name}.{field}: %zu bytes at %zu\\n\", sizeof((({name} *)0)->{field}), \
                 offsetof({name}, {field}));\n"
            );
        }
    }
    for name in numbers {
        source += &format!("printf(\"{name} = %d\\n\", {name});\n");
    }
    source += "}\n";
    let folder = folder("abi", "layout");
    let file = folder.join("layout.c");
    fs::write(&file, source).unwrap();
    let program = compile(&mut cc(), "c99", &[file.to_str().unwrap()], &folder);
    committed("layout.txt", &run(&mut Command::new(program)));
}
