//! Runs the binary.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{json, Value};
use sonew::Error;

const SONEW: &str = env!("CARGO_BIN_EXE_sonew");

/// Runs the tool in a folder, with paths relative to it.
fn sonew(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(SONEW);
    command.args(arguments).current_dir(folder);
    command.output().unwrap()
}

/// What it prints, and its exit code.
pub fn printed(folder: &Path, arguments: &[&str]) -> (String, String, i32) {
    let output = sonew(folder, arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (text(output.stdout), text(output.stderr), code)
}

/// The JSON that it prints, and its exit code.
pub fn json_of(folder: &Path, arguments: &[&str]) -> (Value, i32) {
    let arguments = [arguments, &["--json"]].concat();
    let (out, err, code) = printed(folder, &arguments);
    assert_eq!(err, "");
    (serde_json::from_str(&out).unwrap(), code)
}

/// It is refused with this error of the library, in words and as JSON, and this exit code.
pub fn refused(folder: &Path, arguments: &[&str], error: &Error, expected: i32) {
    let (out, err, code) = printed(folder, arguments);
    assert_eq!(err, format!("sonew: {error}\n"));
    assert_eq!((&out[..], code), ("", expected), "{error}");
    let (value, code) = json_of(folder, arguments);
    let status = error.status_name();
    let error = json!({ "error": { "status": status, "message": error.to_string() } });
    assert_eq!((value, code), (error, expected));
}
