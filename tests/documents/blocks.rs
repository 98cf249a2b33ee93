//! The blocks of code of a page.

#![allow(dead_code)] // Every test uses some of it.

use std::fs;
use std::path::Path;

pub struct Block {
    pub language: String,
    pub code: String,
    /// Why the tests do not run it: `<!-- not run: why -->` in the line before.
    pub not_run: Option<String>,
}

pub fn blocks(page: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    let mut before = "";
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let code = lines.by_ref().take_while(|line| *line != "```");
            let why = before.strip_prefix("<!-- not run: ");
            blocks.push(Block {
                language: language.to_owned(),
                code: code.map(|line| format!("{line}\n")).collect(),
                not_run: why.and_then(|w| w.strip_suffix(" -->")).map(str::to_owned),
            });
        }
        before = line;
    }
    blocks
}
