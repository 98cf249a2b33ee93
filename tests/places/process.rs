//! Other processes: this program, called again, does what its arguments say.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sonew::{Error, LoadMode, Result};

use crate::{load, names, optimizer, step, step_of, LONG};

/// The library of failures.
pub fn preload() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = folder.join("sonew-places-preload.so");
        // Other processes of these tests build and use it at the same time.
        let own = library.with_extension(std::process::id().to_string());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/places/preload.c");
        let built = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&own)
            .arg(source)
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(built.success());
        fs::rename(own, &library).unwrap();
        library
    })
}

/// Another process: does what the arguments say, and says how it went.
#[test]
#[ignore = "the other tests of this file run it, in processes of their own"]
fn another_process() {
    let Some(arguments) = env::var_os("SONEW_PLACES") else {
        return;
    };
    let arguments = arguments.into_string().unwrap();
    let (what, path) = arguments.split_once(':').unwrap();
    let path = Path::new(path);
    let outcome = match what {
        "save" => optimizer(2).save(path, None),
        "make_live" => optimizer(2).make_live(path),
        "share" => load(path, LoadMode::MapShared).map(drop),
        "go on" => go_on(path),
        "read" => load(path, LoadMode::Read).map(drop),
        "work" => {
            let mut live = optimizer(0);
            live.make_live(path).unwrap();
            (0..3).for_each(|_| step(&mut live));
            fs::write(path.with_extension("ready"), "").unwrap();
            std::thread::sleep(LONG);
            unreachable!()
        }
        "save_elsewhere" => {
            env::set_current_dir(path.join("here")).unwrap();
            let saving = optimizer(2).save_begin("saved", None).unwrap();
            env::set_current_dir(path.join("there")).unwrap();
            saving.finish()
        }
        "save_and_fork" => {
            let saving = optimizer(2).save_begin(path, None).unwrap();
            let reached = PathBuf::from(env::var_os("SONEW_REACHED").unwrap());
            wait_for(|| reached.exists());
            // SAFETY: the child only sleeps and ends.
            unsafe {
                if libc::fork() == 0 {
                    libc::sleep(20);
                    libc::_exit(0);
                }
            }
            fs::write(path.with_extension("forked"), "").unwrap();
            saving.finish()
        }
        _ => unreachable!("{what}"),
    };
    println!("\nOUTCOME {outcome:?}");
}

/// What a training run does in a folder: it is killed at a live file and in the middle
/// of a save, begun again, and ends.
pub fn go_on(folder: &Path) -> Result<()> {
    let live = folder.join("live");
    let ready = live.with_extension("ready");
    let mut worker = process("work", &live).spawn().unwrap();
    wait_for(|| ready.exists());
    // Nobody else can work on it, or replace it.
    for mode in [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared] {
        assert!(matches!(load(&live, mode), Err(Error::FileLocked { .. })));
    }
    let replaced = optimizer(1).save(&live, None);
    assert!(matches!(replaced, Err(Error::FileLocked { .. })));
    worker.kill().unwrap();
    worker.wait().unwrap();
    let mut again = load(&live, LoadMode::MapShared)?;
    assert_eq!(again.step_count(), 3);
    step(&mut again);
    again.sync()?;
    drop(again);
    assert_eq!(step_of(&live), 4);

    let saved = folder.join("saved");
    optimizer(1).save(&saved, None)?;
    let reached = folder.join("reached");
    for delay in ["fsync=60000", "rename=60000"] {
        let mut command = with("save", &saved, "SONEW_DELAY", delay);
        let mut saver = command.env("SONEW_REACHED", &reached).spawn().unwrap();
        wait_for(|| reached.exists());
        saver.kill().unwrap();
        saver.wait().unwrap();
        fs::remove_file(&reached).unwrap();
        assert_eq!(step_of(&saved), 1);
        assert!(folder.join("saved.sonew-tmp").exists());
    }
    let mapped = load(&saved, LoadMode::MapPrivate)?;
    optimizer(2).save(&saved, None)?;
    assert_eq!(step_of(&saved), 2);
    assert_eq!(mapped.step_count(), 1);
    assert_eq!(names(folder), ["live", "live.ready", "saved"]);
    // A copy of a file in use.
    let mut in_use = load(&live, LoadMode::MapShared)?;
    (0..2).for_each(|_| step(&mut in_use));
    fs::copy(&live, folder.join("copy")).unwrap();
    match load(&folder.join("copy"), LoadMode::Read) {
        Err(Error::Torn { .. }) => {}
        Ok(copy) => assert_eq!(copy.step_count(), 4),
        Err(other) => return Err(other),
    }
    Ok(())
}

pub fn process(what: &str, path: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    as_process(&mut command, what, path);
    command
}

pub fn as_process(command: &mut Command, what: &str, path: &Path) {
    command
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "process::another_process",
        ])
        .env("SONEW_PLACES", format!("{what}:{}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

/// A process with failures or delays in it.
pub fn with(what: &str, path: &Path, variable: &str, value: &str) -> Command {
    let mut command = process(what, path);
    command.env("LD_PRELOAD", preload()).env(variable, value);
    command
}

/// How it went in another process, which must end by itself.
pub fn outcome(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let outcome = said.lines().find_map(|line| line.strip_prefix("OUTCOME "));
    let errors = String::from_utf8_lossy(&output.stderr);
    outcome
        .unwrap_or_else(|| panic!("{}: {said}{errors}", output.status))
        .to_owned()
}

pub fn run(mut command: Command) -> String {
    outcome(command.spawn().unwrap())
}

pub fn wait_for(ready: impl Fn() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(1));
    }
}
