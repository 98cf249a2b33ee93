//! The choice of the instruction set: by option, by environment variable.

use std::process::Command;

use sonew::layout::TensorSpec;
use sonew::options::{InstructionSet, Options};
use sonew::{Error, Optimizer, Result};

/// The instruction set that an optimizer with this option uses.
fn used(instruction_set: InstructionSet) -> Result<&'static str> {
    let options = Options {
        instruction_set,
        ..Options::default()
    };
    Optimizer::new(options, &[TensorSpec::new("w", &[3])]).map(|o| o.instruction_set())
}

/// One that no processor has together with the best one.
const FOREIGN: InstructionSet = match cfg!(target_arch = "x86_64") {
    true => InstructionSet::Neon,
    false => InstructionSet::Avx512,
};

#[test]
fn an_option_names_it() {
    assert_eq!(used(InstructionSet::Portable).unwrap(), "portable");
    for set in [
        InstructionSet::Avx2,
        InstructionSet::Avx512,
        InstructionSet::Neon,
    ] {
        match used(set) {
            Ok(name) => assert_eq!(name, set.name()),
            Err(Error::InstructionSet { name, .. }) => assert_eq!(name, set.name()),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn one_that_is_not_there_is_refused() {
    let refused = used(FOREIGN).unwrap_err();
    assert!(matches!(
        &refused,
        Error::InstructionSet { argument: "options.instruction_set", name, available }
            if name == FOREIGN.name() && available.starts_with("portable")
    ));
    let expected = format!("options.instruction_set is \"{}\":", FOREIGN.name());
    assert!(refused.to_string().starts_with(&expected), "{refused}");
}

/// Prints what an optimizer uses that leaves it open, in a process with this
/// environment variable.
fn used_with(variable: Option<&str>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", "print_what_is_used"]);
    match variable {
        Some(value) => command.env("SONEW_INSTRUCTION_SET", value),
        None => command.env_remove("SONEW_INSTRUCTION_SET"),
    };
    let run = command.output().unwrap();
    assert!(run.status.success());
    let printed = String::from_utf8(run.stdout).unwrap();
    let line = printed.lines().find_map(|line| line.split_once("used: "));
    line.expect("it prints it").1.to_owned()
}

/// Run by the next test, in a process of its own.
#[test]
#[ignore]
fn print_what_is_used() {
    match used(InstructionSet::Auto) {
        Ok(name) => println!("used: {name}"),
        Err(refused) => println!("used: {refused}"),
    }
    assert_eq!(used(InstructionSet::Portable).unwrap(), "portable");
}

#[test]
fn the_environment_names_it_where_the_option_does_not() {
    let best = used_with(None);
    assert_eq!(used_with(Some("auto")), best);
    assert_eq!(used_with(Some("")), best);
    assert_eq!(used_with(Some("portable")), "portable");
    for wrong in [FOREIGN.name(), "AVX", " "] {
        let refused = used_with(Some(wrong));
        let expected = format!("SONEW_INSTRUCTION_SET is \"{wrong}\": ");
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(refused.ends_with(&best), "{refused}");
    }
}
