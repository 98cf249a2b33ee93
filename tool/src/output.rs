//! What is printed: tables and sentences, or JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{json, Value};
use sonew::checkpoint::{Checkpoint, StoredPlane};
use sonew::Error;

/// How results are printed.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints a result. A reader who wants no more of it is no error.
    pub fn result(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) {
        let printed = match self.json {
            true => format!("{:#}\n", json()),
            false => text(),
        };
        let _ = std::io::stdout().write_all(printed.as_bytes());
    }

    /// Prints an error with the library's message.
    pub fn error(self, error: &Error) {
        match self.json {
            true => self.result(String::new, || json!({ "error": of_error(error) })),
            false => eprintln!("sonew: {error}"),
        }
    }
}

/// An error as JSON.
pub fn of_error(error: &Error) -> Value {
    json!({ "status": error.status_name(), "message": error.to_string() })
}

/// The name of an array in its file.
pub fn array_name(file: &Checkpoint, array: &StoredPlane<'_>) -> String {
    let tensor = &file.header().tensors[array.tensor];
    format!("{}/{}", tensor.spec.name, array.plane)
}

/// What is said of a file that was written: in a line, and as JSON.
pub fn written(path: &Path) -> Result<(String, Value), Error> {
    let file = Checkpoint::open(path)?;
    let (step, size) = (file.header().step, file.file_bytes());
    let text = format!("{}: step {step}, {}\n", path.display(), bytes(size));
    let json = json!({ "file": path.to_string_lossy(), "step": step, "file_bytes": size });
    Ok((text, json))
}

/// A bar on a terminal for work on so many bytes, if that takes long.
pub fn progress(what: &str, bytes: u64) -> ProgressBar {
    if bytes < 1 << 28 {
        return ProgressBar::hidden();
    }
    let style = format!("{what} {{bar:40}} {{bytes}} of {{total_bytes}}, {{eta}} left");
    let style = ProgressStyle::with_template(&style).expect("a valid template");
    ProgressBar::new(bytes).with_style(style)
}

/// A number of bytes in words.
pub fn bytes(count: u64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(size, _)| count as f64 >= *size);
    match unit {
        Some((size, name)) => format!("{:.1} {name}", count as f64 / size),
        None => format!("{count} bytes"),
    }
}

/// A number of things in words.
pub fn count(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Aligned columns under their titles.
pub fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(titles.len(), Vec::len);
    let title = |column: usize| titles.get(column).copied().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([title(column).len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = (0..columns).map(|c| format!("{:<width$}", cell(c), width = widths[c]));
        format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    if !titles.is_empty() {
        let total = widths.iter().sum::<usize>() + 2 * (columns - 1);
        let titles = line(&|column| title(column).to_owned());
        let _ = writeln!(text, "{titles}\n  {}", "─".repeat(total));
    }
    for row in rows {
        let _ = writeln!(text, "{}", line(&|column| row[column].clone()));
    }
    text
}
