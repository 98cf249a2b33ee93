//! Situations in which a library could harm its host process: forks, unloading,
//! floating-point modes, threads, signals, failed allocations, stale handles.

use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../programs/mod.rs"]
mod programs;

use programs::{built, cc, compile, folder, not_tested, root, run, valgrind, WARNINGS};

/// Compiles a program of this folder; returns it and its own folder.
fn hazard(name: &str) -> (PathBuf, PathBuf) {
    let folder = folder("hazards", name);
    let source = format!("tests/hazards/{name}.c");
    let program = compile(&mut cc(), "gnu11", &[&source], &folder);
    (program, folder)
}

/// Runs it; it gets its folder to write to, and prints one line.
fn says(program: &Path, folder: &Path, line: &str) {
    assert_eq!(run(Command::new(program).arg(folder)), format!("{line}\n"));
}

#[test]
fn a_forked_child_steps() {
    let (program, folder) = hazard("fork");
    says(&program, &folder, "children step");
}

/// A parent and its child may both be process 1, in namespaces of their own.
#[test]
fn a_forked_child_is_known_by_more_than_its_process_id() {
    let (program, folder) = hazard("namespace");
    match run(Command::new(program).arg(folder)).as_str() {
        "children are known\n" => {}
        "no right to make namespaces\n" => not_tested("children in pid namespaces: needs root"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_cancelled_thread_completes_its_call() {
    let (program, folder) = hazard("cancel");
    says(&program, &folder, "calls are completed");
}

#[test]
fn the_library_is_loaded_and_closed_a_hundred_times() {
    let folder = folder("hazards", "unload");
    let program = folder.join("program");
    run(cc()
        .args(["-std=gnu11", "-O1", "-pthread"])
        .args(WARNINGS)
        // POSIX lets a pointer to a function be one to an object.
        .args(["-Wno-pedantic", "-I"])
        .arg(root("include"))
        .arg(root("tests/hazards/unload.c"))
        .args(["-ldl", "-o"])
        .arg(&program));
    says(&program, &built().join("libsonew.so"), "loads and goes");
}

#[test]
fn a_step_needs_little_stack() {
    let (program, folder) = hazard("stack");
    says(&program, &folder, "steps need little stack");
}

#[test]
fn floating_point_modes_are_kept_and_change_nothing() {
    let (program, folder) = hazard("modes");
    says(&program, &folder, "modes kept");
}

#[test]
fn threads_step_at_once_or_are_told_to_wait() {
    let (program, folder) = hazard("threads");
    says(&program, &folder, "threads take turns");
}

#[test]
fn a_save_in_the_background_holds_its_moment() {
    let (program, folder) = hazard("background");
    says(&program, &folder, "saves hold their moment");
}

#[test]
fn threads_are_created_as_asked_for_and_end() {
    let (program, folder) = hazard("no_threads");
    says(&program, &folder, "threads counted");
}

#[test]
fn optimizers_and_plans_share_threads() {
    let (program, folder) = hazard("pool");
    says(&program, &folder, "threads are shared");
}

#[test]
fn a_step_goes_on_with_the_threads_that_a_limit_leaves() {
    let (program, folder) = hazard("limited");
    match run(Command::new(program).arg(folder)).as_str() {
        "steps go on\n" => {}
        "no right to become another user\n" => not_tested("a limit of threads: needs root"),
        other => panic!("{other}"),
    }
}

#[test]
fn signals_locale_and_output_are_the_hosts() {
    let (program, folder) = hazard("quiet");
    says(&program, &folder, "as it was");
}

/// A hazard with allocations that fail.
fn failing(name: &str) -> (PathBuf, PathBuf) {
    let folder = folder("hazards", name);
    let mut compiler = cc();
    // The compiler must not take malloc for its own.
    compiler.arg("-fno-builtin");
    let source = format!("tests/hazards/{name}.c");
    let program = compile(&mut compiler, "gnu11", &[&source], &folder);
    (program, folder)
}

#[test]
fn allocations_that_fail_are_a_status() {
    let (program, folder) = failing("allocations");
    says(&program, &folder, "failures are answers");
}

#[test]
fn so_are_those_for_hundreds_of_tensors() {
    let (program, folder) = failing("many");
    says(&program, &folder, "every list may fail");
}

/// What the calls do is printed: `cargo test --test hazards whatever_allocation --
/// --nocapture`.
#[test]
fn a_call_goes_on_or_is_refused_whatever_allocation_fails() {
    let (program, _) = failing("any_size");
    // In memory if the system has such a folder: thousands of files are synced.
    let files = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let printed = run(Command::new(program).arg(files.unwrap().path()));
    println!("{printed}");
    assert!(printed.ends_with(" failures, 0 faults\n"), "{printed}");
}

#[test]
fn stale_handles_are_refused() {
    let (program, folder) = hazard("handles");
    says(&program, &folder, "refused");
    valgrind(&program, &[&folder]);
}

mod rayon_host {
    use sonew::layout::TensorSpec;
    use sonew::options::{Options, StepOptions};
    use sonew::Optimizer;

    const LENGTH: usize = 200_000;

    fn steps() -> Vec<f32> {
        let options = Options {
            threads: 3,
            ..Options::default()
        };
        let tensors = [TensorSpec::new("w", &[LENGTH])];
        let mut optimizer = Optimizer::new(options, &tensors).unwrap();
        let mut w = vec![1.0f32; LENGTH];
        for step in 0..3 {
            let gradient: Vec<f32> = (0..LENGTH).map(|i| ((i + step) % 7) as f32 - 3.0).collect();
            let step = StepOptions::default();
            optimizer
                .step(&step, &mut [&mut w], &[Some(&gradient)])
                .unwrap();
        }
        w
    }

    /// A Rust program shares one rayon with the library: its global pool is
    /// its own to configure, also after steps, and steps taken inside its
    /// pools run on the optimizer's.
    #[test]
    fn its_pools_are_its_own() {
        let alone = steps();
        let global = rayon::ThreadPoolBuilder::new().num_threads(2);
        global.build_global().expect("nobody has used it");
        assert_eq!(rayon::current_num_threads(), 2);
        let inside: Vec<_> = rayon::broadcast(|_| steps());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        let within = pool.build().unwrap().install(steps);
        assert!(inside.iter().chain([&within]).all(|w| *w == alone));
        assert_eq!(rayon::current_num_threads(), 2);
    }
}
