//! The C headers, generated from the sources with cbindgen. They are committed, so that
//! nobody who builds the library needs this; the test here tells when they are out of date.

use std::fs;
use std::path::{Path, PathBuf};

/// The sections of the header, in order: files of src/capi. The documentation at the top of
/// each file introduces its section.
const SECTIONS: [&str; 19] = [
    "optimizer",
    "step",
    "flat",
    "file",
    "texts",
    "options",
    "tensor",
    GUARANTEES,
    "tensor_settings",
    "info",
    "view",
    "live",
    "contents",
    "pool",
    "plan",
    "stages",
    "blocks",
    "partial",
    "status",
];

/// The types of handles, which are declared before everything else.
const HANDLES: &str = "handles";

/// What C11 adds to the declarations.
const LISTS: &str = "src/capi/lists.h";

/// The second part of the introduction, which has no declarations.
const GUARANTEES: &str = "mod";

/// The root of the workspace.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("it is a folder of the workspace")
}

/// What `include/sonew.h` is to be.
pub fn sonew_h() -> String {
    let documents = documentation(&source(GUARANTEES));
    let (introduction, guarantees) = documents
        .split_once("\n ---\n\n")
        .expect("the introduction has two parts");
    let (mut types, mut text) = (handles(), String::new());
    for section in SECTIONS.into_iter().chain(["version"]) {
        text += "\n";
        if section == GUARANTEES {
            text += &comment(guarantees);
            continue;
        }
        let file = source(section);
        text += &comment(&documentation(&file));
        text += "\n";
        text += &in_order(&declarations(&file), &mut types);
    }
    let mut header = comment(introduction);
    header += "\n#ifndef SONEW_H\n#define SONEW_H\n\n";
    header += "/* Generated from src/capi with cbindgen: change it there. */\n\n";
    header += "#include <stddef.h>\n#include <stdint.h>\n\n";
    header += &version();
    header += "\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
    header += "\n";
    header += &types;
    header += &text;
    header += "\n";
    header += &fs::read_to_string(root().join(LISTS)).expect("it is a file");
    header += "\n#ifdef __cplusplus\n}\n#endif\n\n#endif /* SONEW_H */\n";
    header
}

/// What `include/sonew_xla.h` is to be.
pub fn sonew_xla_h() -> String {
    let file = root().join("src/xla/mod.rs");
    let mut header = comment(&documentation(&file));
    header += "\n#ifndef SONEW_XLA_H\n#define SONEW_XLA_H\n\n";
    header += "/* Generated from src/xla with cbindgen: change it there. */\n\n";
    header += "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n";
    header += &declarations(&file);
    header += "\n#ifdef __cplusplus\n}\n#endif\n\n#endif /* SONEW_XLA_H */\n";
    header
}

/// The declarations of handles, in the order of their file: cbindgen has them in that of
/// their names.
fn handles() -> String {
    let file = source(HANDLES);
    let rust = fs::read_to_string(&file).expect("it is a file");
    let declarations = declarations(&file);
    let mut handles: Vec<&str> = declarations.trim_end().split("\n\n").collect();
    handles.sort_by_key(|handle| {
        let (_, name) = handle.rsplit_once(' ').expect("a type has a name");
        rust.find(&format!("pub struct {} {{", name.trim_end_matches(';')))
    });
    handles.join("\n\n") + "\n\n"
}

/// Functions first, then the types that they need; the names of types are declared in
/// `types`, which comes before all of them.
fn in_order(declarations: &str, types: &mut String) -> String {
    let (mut functions, mut others) = (Vec::new(), Vec::new());
    for declaration in declarations.trim_end().split("\n\n") {
        let mut declaration = declaration.to_owned();
        if let Some(name) = name_of_struct(&declaration) {
            *types += &format!("typedef struct {name} {name};\n");
            declaration = declaration
                .replace("typedef struct {", &format!("struct {name} {{"))
                .replace(&format!("}} {name};"), "};");
        } else if let Some(values) = declaration.strip_suffix(STATUS) {
            // What all functions return.
            *types += &STATUS[1..];
            *types += "\n";
            declaration = values.to_owned();
        }
        let is_function = declaration.ends_with(");");
        let list = if is_function {
            &mut functions
        } else {
            &mut others
        };
        list.push(declaration);
    }
    functions.append(&mut others);
    functions.join("\n\n") + "\n"
}

/// The type of statuses, behind their numbers.
const STATUS: &str = "\ntypedef int32_t sonew_status;";

/// The name of the struct that a declaration is.
fn name_of_struct(declaration: &str) -> Option<&str> {
    let (_, end) = declaration
        .find("typedef struct {")
        .and_then(|_| declaration.rsplit_once("} "))?;
    end.strip_suffix(';')
}

fn source(section: &str) -> PathBuf {
    root().join("src/capi").join(section).with_extension("rs")
}

/// The version of this header, as macros.
fn version() -> String {
    let parts = [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ];
    let mut macros = "/* The version of this header. */\n".to_owned();
    for (name, number) in parts {
        macros += &format!("#define SONEW_VERSION_{name} {number}\n");
    }
    macros += "#define SONEW_VERSION_NUMBER \\\n    \
        (SONEW_VERSION_MAJOR * 1000000 + SONEW_VERSION_MINOR * 1000 + SONEW_VERSION_PATCH)\n";
    macros
}

/// The documentation at the top of a file, with code indented instead of fenced.
fn documentation(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("sections are files");
    let mut code = false;
    let mut plain = String::new();
    for line in text.lines().map_while(|line| line.strip_prefix("//!")) {
        if line.starts_with(" ```") {
            code = !code;
        } else if code && !line.is_empty() {
            plain += &format!("   {line}\n");
        } else {
            plain += &format!("{line}\n");
        }
    }
    plain
}

/// A comment whose first line is a heading.
fn comment(text: &str) -> String {
    let rule = "*".repeat(78);
    let lines = text.lines().map(|line| format!(" *{line}\n"));
    format!("/{rule}\n{} {rule}/\n", lines.collect::<String>())
}

/// The declarations of one file.
fn declarations(file: &Path) -> String {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("cbindgen.toml");
    let config = cbindgen::Config::from_file(config).expect("cbindgen.toml is valid");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(file)
        .generate()
        .expect("src/capi declares what cbindgen understands");
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).expect("cbindgen writes text");
    signed_enumerations(&one_line_comments(&text))
}

/// Makes the type of every enumeration int32_t, which is what functions and structs
/// take. Compilers choose an unsigned type for an enum, and warn where a variable
/// of it is converted.
fn signed_enumerations(text: &str) -> String {
    let mut enumeration = false;
    let mut signed = String::new();
    for line in text.lines() {
        let end = line.strip_prefix("} ").filter(|_| enumeration);
        if line == "typedef enum {" {
            enumeration = true;
            signed += "enum {\n";
        } else if let Some(name) = end {
            enumeration = false;
            signed += &format!("}};\ntypedef int32_t {name}\n");
        } else {
            signed += &format!("{line}\n");
        }
    }
    signed
}

/// Puts comments with one line of text on a single line.
fn one_line_comments(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut shorter = String::new();
    let mut rest = &lines[..];
    while let [line, others @ ..] = rest {
        rest = others;
        shorter += line;
        if let (true, [text, end, others @ ..]) = (line.ends_with("/**"), others) {
            if end.ends_with(" */") {
                let text = text.trim_start().trim_start_matches('*');
                shorter += &format!("{text} */");
                rest = others;
            }
        }
        shorter += "\n";
    }
    shorter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_up_to_date() {
        let headers = [
            ("include/sonew.h", sonew_h()),
            ("include/sonew_xla.h", sonew_xla_h()),
        ];
        for (name, generated) in headers {
            let committed = root().join(name);
            if std::env::var_os("SONEW_UPDATE_HEADER").is_some() {
                fs::write(&committed, &generated).unwrap();
            }
            let text = fs::read_to_string(&committed).unwrap_or_default();
            assert!(
                text == generated,
                "{name} is not what the sources say; to update it, run\n    \
                 SONEW_UPDATE_HEADER=1 cargo test -p sonew-header"
            );
        }
    }
}
