//! Generates the reference documentation: `docs/c-api.md` and `docs/cpp-api.md`
//! from the two headers, and `docs/julia-api.md` from Julia's docstrings. The
//! pages are committed, and a test fails if they are not up to date. (That of
//! JAX is generated in Python: bindings/python/tests/jax/test_api_page.py.)

mod julia;

use std::fs;
use std::path::Path;

/// The lines of a header.
struct Lines<'a>(std::iter::Peekable<std::str::Lines<'a>>);

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Lines(text.lines().peekable())
    }

    /// The next lines that have this prefix, without it.
    fn block(&mut self, prefix: &str) -> Vec<&'a str> {
        let mut block = Vec::new();
        while let Some(line) = self.0.next_if(|line| line.trim_start().starts_with(prefix)) {
            let line = line.trim_start().strip_prefix(prefix).unwrap();
            block.push(line.strip_prefix(' ').unwrap_or(line));
        }
        block
    }
}

/// Text of a comment as Markdown: lines that are indented by three spaces are code,
/// and special characters of Markdown are escaped.
fn markdown(lines: &[&str]) -> String {
    let mut text = String::new();
    let mut code = false;
    let mut blank = false;
    for line in lines {
        if line.is_empty() {
            blank = true;
            continue;
        }
        let is_code = line.starts_with("   ");
        if is_code && !code {
            text += "\n```c\n";
        } else if !is_code && code {
            text += "```\n\n";
        } else if blank {
            text += "\n";
        }
        (code, blank) = (is_code, false);
        match is_code {
            true => text += &line[3..],
            false => {
                text += &line
                    .replace('<', "&lt;")
                    .replace('*', "\\*")
                    .replace('_', "\\_")
            }
        }
        text += "\n";
    }
    if code {
        text += "```\n";
    }
    text
}

fn entry(name: &str, declaration: &str, language: &str, text: &str) -> String {
    format!(
        "\n### {name}\n\n```{language}\n{}\n```\n\n{text}",
        declaration.trim_end()
    )
}

/// The page of the C header, which has sections between lines of stars, then
/// comments with their declarations.
fn c_reference(header: &str) -> String {
    let mut page = "<!-- Made from the headers in include/ by tests/reference. -->\n".to_owned();
    let mut lines = Lines::of(header);
    while let Some(line) = lines.0.next() {
        if line.starts_with("/***") {
            let text = lines.block("*");
            let (title, text) = text.split_first().unwrap();
            let text = &text[..text.len() - 1];
            let level = if title.starts_with("sonew.h ") {
                "#"
            } else {
                "\n##"
            };
            page += &format!("{level} {title}\n\n{}", markdown(text));
        } else if let Some(comment) = line.strip_prefix("/**") {
            let text: Vec<&str> = match comment.strip_suffix("*/") {
                Some(short) => vec![short.trim()],
                None => {
                    let mut text = lines.block("*");
                    text.pop();
                    text
                }
            };
            let mut declaration = String::new();
            while let Some(line) = lines.0.next_if(|line| !line.is_empty()) {
                declaration += line;
                declaration += "\n";
            }
            page += &entry(&c_name(&declaration), &declaration, "c", &markdown(&text));
        }
    }
    page
}

/// The lines of a declaration, up to the one that ends it.
fn declaration(lines: &mut Lines<'_>, ends: impl Fn(&str) -> bool) -> String {
    let mut declaration = String::new();
    for line in lines.0.by_ref() {
        declaration += line;
        declaration += "\n";
        if ends(line) {
            break;
        }
    }
    declaration
}

fn c_name(declaration: &str) -> String {
    let start = declaration.split('(').next().unwrap();
    // The type of the statuses is declared before all functions.
    if declaration.contains("SONEW_OK = 0") {
        return "sonew_status".to_owned();
    }
    if let Some((name, _)) = start
        .strip_prefix("struct ")
        .and_then(|s| s.split_once(' '))
    {
        return name.to_owned();
    }
    let last = declaration.lines().last().unwrap();
    let of_type = ["} ", "typedef int32_t "].map(|before| last.strip_prefix(before));
    let name = match of_type.into_iter().flatten().next() {
        Some(name) => name,
        None if start.starts_with('#') => start.split(' ').nth(1).unwrap(),
        None => start.split([' ', '*']).next_back().unwrap(),
    };
    name.trim().trim_end_matches(';').to_owned()
}

/// The page of the C++ header, which has sections under lines of dashes, and
/// `///` comments with their declarations. Private members and the namespace
/// `detail` are left out.
fn cpp_reference(header: &str) -> String {
    let mut page = "<!-- Made from bindings/cpp/sonew.hpp by tests/reference. -->\n".to_owned();
    let mut lines = Lines::of(header);
    let first = lines.block("//");
    let (title, text) = first.split_first().unwrap();
    page += &format!(
        "# {title}\n\n{}",
        markdown(text).replace("```c\n", "```cpp\n")
    );
    let (mut hidden, mut private) = (false, false);
    while let Some(line) = lines.0.peek().copied() {
        if line == "namespace detail {" || line == "}  // namespace detail" {
            hidden = line.starts_with("namespace");
        } else if line == " private:" || line.starts_with('}') {
            private = line == " private:";
        } else if line.starts_with("// ---") {
            lines.0.next();
            page += &format!(
                "\n## {}\n",
                lines.0.next().unwrap().trim_start_matches("// ")
            );
            continue;
        } else if line.trim_start().starts_with("///") && !hidden && !private {
            let member = line.starts_with(' ');
            let text = lines.block("///");
            let declaration = cpp_declaration(&mut lines, member);
            let name = cpp_name(&declaration);
            let heading = if member { format!("`{name}`") } else { name };
            page += &entry(
                &heading,
                &declaration,
                "cpp",
                &markdown(&text).replace("```c\n", "```cpp\n"),
            );
            continue;
        }
        lines.0.next();
    }
    page
}

/// The part of a line of C++ that is in the head of a declaration, and whether the
/// head ends there: where its body begins, or a constructor's initializers. A brace
/// after `=` is a default, which belongs to the head, and so do base classes.
fn cpp_head(code: &str, class: bool) -> (&str, bool) {
    if code.starts_with(": ") && !class {
        return ("", true);
    }
    let ends = code.char_indices().find(|&(at, _)| {
        let (before, after) = (&code[..at], &code[at..]);
        let body = after.starts_with(" {") && !before.ends_with('=');
        body || (after.starts_with(" : ") && !class)
    });
    match ends {
        Some((at, _)) => (&code[..at], true),
        None => (code, code.ends_with([';', '{', '}'])),
    }
}

/// The head of a class or function; the whole of a struct or enumeration.
fn cpp_declaration(lines: &mut Lines<'_>, member: bool) -> String {
    let first = lines.0.peek().copied().unwrap_or_default();
    let whole = !member && (first.starts_with("struct") || first.starts_with("enum"));
    if whole {
        let whole = declaration(lines, |line| line == "};");
        // The body of a constructor that asks the C library for the defaults is not shown.
        let shown = |line: &str| match line.split_once(" { ") {
            Some((head, body)) if body.contains("detail::") => format!("{head};\n"),
            _ => format!("{line}\n"),
        };
        return whole.lines().map(shown).collect();
    }
    let class = ["class ", "struct "]
        .iter()
        .any(|word| first.contains(word));
    let mut head = String::new();
    for line in lines.0.by_ref() {
        let (code, ends) = cpp_head(line.trim_start(), class);
        head += code;
        if ends {
            break;
        }
        head += match code.starts_with("template") {
            true => "\n",
            false => "\n    ",
        };
    }
    let head = head.trim_end().trim_end_matches(';');
    format!("{head};\n")
}

fn cpp_name(declaration: &str) -> String {
    let lines: Vec<_> = declaration
        .lines()
        .filter(|l| !l.starts_with("template"))
        .collect();
    let head = lines.join(" ");
    let head = head.split(['(', '{', '=', ';']).next().unwrap().trim();
    let head = head.split(" : ").next().unwrap();
    head.split([' ', '*']).next_back().unwrap().to_owned()
}

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn up_to_date(page: &str, made: &str) {
    let path = root(page);
    if std::env::var_os("SONEW_UPDATE_REFERENCE").is_some() {
        fs::write(&path, made).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap_or_default() == made,
        "{page} is not what the source says; to update it, run\n    \
         SONEW_UPDATE_REFERENCE=1 cargo test --test reference"
    );
}

#[test]
fn of_c() {
    let headers = ["include/sonew.h", "include/sonew_xla.h"];
    let header = headers.map(|name| fs::read_to_string(root(name)).unwrap());
    let header = header.concat();
    let page = c_reference(&header);
    // Everything that the header declares has an entry.
    let symbols = fs::read_to_string(root("tests/abi/symbols.txt")).unwrap();
    assert!(symbols.lines().count() > 30);
    let declared = symbols
        .lines()
        .filter(|name| header.contains(&format!("{name}(")));
    for name in declared {
        assert!(page.contains(&format!("\n### {name}\n")), "{name}");
    }
    let structs = header
        .lines()
        .filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"));
    let enumerations = header
        .lines()
        .filter_map(|line| line.strip_prefix("typedef int32_t ")?.strip_suffix(';'));
    for name in structs.chain(enumerations) {
        assert!(page.contains(&format!("\n### {name}\n")), "{name}");
    }
    up_to_date("docs/c-api.md", &page);
}

#[test]
fn of_cpp() {
    let header = fs::read_to_string(root("bindings/cpp/sonew.hpp")).unwrap();
    let page = cpp_reference(&header);
    for name in [
        "Optimizer",
        "`step`",
        "Plan",
        "Options",
        "error",
        "`finish`",
        "verify",
    ] {
        assert!(page.contains(&format!("\n### {name}\n")), "{name}");
    }
    // No declaration is cut: all its brackets are closed.
    for declaration in page.split("```cpp\n").skip(1) {
        let declaration = declaration.split("```").next().unwrap();
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            let count = |bracket| declaration.matches(bracket).count();
            assert_eq!(count(open), count(close), "{declaration}");
        }
    }
    assert!(page.contains("\nclass error : public std::runtime_error;\n"));
    for inner in ["detail", "handle_", " private:"] {
        assert!(!page.contains(inner), "{inner}");
    }
    up_to_date("docs/cpp-api.md", &page);
}
