//! Keeps a comparison in files, so that it can be stopped and resumed: which
//! optimizers are done, which one is running, and where its checkpoint is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::settings::{layers, setting, Method, State};
use crate::train::{Problem, Record, Run};

const FILE: &str = "session.json";

/// What `session.json` holds.
#[derive(Serialize, Deserialize)]
struct Saved {
    /// Everything that the losses depend on, by name.
    identity: BTreeMap<String, String>,
    finished: Vec<Record>,
    running: Option<Running>,
}

#[derive(Serialize, Deserialize)]
struct Running {
    record: Record,
    /// File name of the parameters and the optimizer's state.
    checkpoint: String,
}

/// A comparison that is kept in a folder.
pub struct Session {
    folder: PathBuf,
    saved: Saved,
}

impl Session {
    /// Starts a new comparison. The folder is created now, so that a failure is
    /// noticed before the training and not after it; nothing is written to it yet.
    pub fn start(folder: &Path, problem: &Problem, methods: &[Method]) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Session {
            folder: folder.to_owned(),
            saved: Saved {
                identity: identity(problem, methods),
                finished: Vec::new(),
                running: None,
            },
        })
    }

    /// The comparison that was stopped in this folder, which must be the same
    /// as the one asked for now.
    pub fn resume(folder: &Path, problem: &Problem, methods: &[Method]) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.exists() {
            bail!("nothing to resume: {} does not exist", path.display());
        }
        let saved = read(&path)?;
        let differences = differences(&saved.identity, &identity(problem, methods));
        ensure!(
            differences.is_empty(),
            "{} is from another run:\n{differences}Use its settings to resume it, or leave out \
             --resume to start anew.",
            path.display()
        );
        Ok(Session {
            folder: folder.to_owned(),
            saved,
        })
    }

    /// Whether this folder holds a comparison that was stopped.
    pub fn lies_unfinished(folder: &Path) -> bool {
        read(&folder.join(FILE)).is_ok_and(|saved| saved.running.is_some())
    }

    /// The optimizers that are done, in the order in which they ran.
    pub fn finished(&self) -> &[Record] {
        &self.saved.finished
    }

    /// The run of one optimizer, new or where it was stopped; `None` if it is
    /// done.
    pub fn run<'a>(&self, problem: &'a Problem, method: Method) -> Result<Option<Run<'a>>> {
        if self.saved.finished.iter().any(|r| r.method == method) {
            return Ok(None);
        }
        let setting = setting(problem.images.name, method);
        let mut run = Run::new(problem, method, setting, State::Float32)?;
        if let Some(running) = &self.saved.running {
            if running.record.method == method {
                let path = self.folder.join(&running.checkpoint);
                run.load(&path, running.record.clone())
                    .context("cannot resume")?;
            }
        }
        Ok(Some(run))
    }

    /// Saves a run in progress. The earlier checkpoint stays until the new one
    /// is complete and `session.json` names it.
    pub fn save(&mut self, run: &Run) -> Result<()> {
        let record = run.record();
        let name = checkpoint_name(record);
        if self.checkpoint() == Some(name.as_str()) {
            return Ok(());
        }
        run.save(&self.folder.join(&name))?;
        self.replace(Some(Running {
            record: record.clone(),
            checkpoint: name,
        }))
    }

    /// Notes that a run is done and removes its checkpoint.
    pub fn finish(&mut self, record: Record) -> Result<()> {
        self.saved.finished.push(record);
        self.replace(None)
    }

    fn checkpoint(&self) -> Option<&str> {
        let running = self.saved.running.as_ref()?;
        Some(&running.checkpoint)
    }

    /// Writes `session.json` with this run in progress, then removes every
    /// checkpoint that it does not name.
    fn replace(&mut self, running: Option<Running>) -> Result<()> {
        self.saved.running = running;
        let path = self.folder.join(FILE);
        let draft = self.folder.join(format!("{FILE}.new"));
        let text = serde_json::to_string(&self.saved)?;
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.remove_other_checkpoints()
            .with_context(|| format!("cannot tidy up {}", self.folder.display()))
    }

    fn remove_other_checkpoints(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if is_checkpoint(&name) && self.checkpoint() != Some(&name) {
                fs::remove_file(self.folder.join(name.as_ref()))?;
            }
        }
        Ok(())
    }
}

/// The file name of a run's checkpoint.
fn checkpoint_name(record: &Record) -> String {
    format!(
        "{}-step-{}.safetensors",
        record.method.key(),
        record.losses.len()
    )
}

/// Whether a file has such a name. The folder may hold files of other
/// programs.
fn is_checkpoint(name: &str) -> bool {
    let parts = name
        .strip_suffix(".safetensors")
        .and_then(|stem| stem.split_once("-step-"));
    parts.is_some_and(|(method, step)| {
        Method::value_variants().iter().any(|m| m.key() == method) && step.parse::<usize>().is_ok()
    })
}

fn read(path: &Path) -> Result<Saved> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a session of this program", path.display()))
}

/// Everything that decides the losses. The number of threads does not.
fn identity(problem: &Problem, methods: &[Method]) -> BTreeMap<String, String> {
    let data = &problem.images;
    let keys: Vec<&str> = methods.iter().map(|m| m.key()).collect();
    let mut identity = BTreeMap::from([
        (
            "data".to_owned(),
            format!(
                "{:?}, {} images, checksum {:08x}",
                data.name,
                data.len(),
                data.checksum()
            ),
        ),
        ("layers".to_owned(), format!("{:?}", layers(data.name))),
        ("--epochs".to_owned(), problem.epochs.to_string()),
        ("--batch".to_owned(), problem.batch.to_string()),
        ("--seed".to_owned(), problem.seed.to_string()),
        ("--optimizers".to_owned(), keys.join(",")),
    ]);
    for &method in methods {
        let name = format!("settings of {}", method.key());
        identity.insert(name, format!("{:?}", setting(data.name, method)));
    }
    identity
}

/// One line for every name whose value is not the same in both.
fn differences(saved: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> String {
    let none = "absent".to_owned();
    let names: std::collections::BTreeSet<_> = saved.keys().chain(now.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            (
                name,
                saved.get(name).unwrap_or(&none),
                now.get(name).unwrap_or(&none),
            )
        })
        .filter(|(_, before, now)| before != now)
        .map(|(name, before, now)| format!("  {name} was {before}, is {now}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Images;

    const METHODS: [Method; 2] = [Method::Tridiagonal, Method::Adamw];

    fn problem(seed: u64) -> Problem {
        Problem {
            images: Images::curves(),
            epochs: 2,
            batch: 2500,
            seed,
            threads: 2,
        }
    }

    /// Trains until this many steps are done, or to the end.
    fn train(run: &mut Run, steps: usize) {
        while !run.finished() && run.record().losses.len() < steps {
            run.step().unwrap();
        }
    }

    #[test]
    fn a_resumed_run_has_the_losses_of_one_never_stopped() {
        // The library's, and Muon, which saves its own state.
        for method in [Method::Tridiagonal, Method::Muon] {
            check_resumed(method);
        }
    }

    fn check_resumed(method: Method) {
        let folder = tempfile::tempdir().unwrap();
        let problem = problem(1);
        let mut session = Session::start(folder.path(), &problem, &[method]).unwrap();
        let mut whole = session.run(&problem, method).unwrap().unwrap();
        train(&mut whole, usize::MAX);

        // Stopped twice: within the first epoch, and within the second.
        for stop in [3, 6] {
            let mut run = session.run(&problem, method).unwrap().unwrap();
            train(&mut run, stop);
            session.save(&run).unwrap();
            session = Session::resume(folder.path(), &problem, &[method]).unwrap();
        }
        let mut run = session.run(&problem, method).unwrap().unwrap();
        assert_eq!(run.record().losses.len(), 6);
        train(&mut run, usize::MAX);
        assert_eq!(run.record().losses.len(), 8);
        assert_eq!(run.record().losses, whole.record().losses);

        // A finished run has its losses, but no checkpoint.
        session.finish(run.into_record()).unwrap();
        let session = Session::resume(folder.path(), &problem, &[method]).unwrap();
        assert!(session.run(&problem, method).unwrap().is_none());
        assert_eq!(session.finished()[0].losses, whole.record().losses);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_is_found_at_the_start() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let started = Session::start(&file.path().join("run"), &problem(1), &METHODS);
        let refused = started.err().expect("refused").to_string();
        assert!(refused.starts_with("cannot create "), "{refused}");
    }

    #[test]
    fn files_of_others_stay_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let others = ["resnet-step-5.safetensors", "band4-step-x.safetensors"];
        for name in others {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::write(folder.path().join("band4-step-7.safetensors"), "").unwrap();
        let problem = problem(1);
        let mut session = Session::start(folder.path(), &problem, &METHODS).unwrap();
        let run = session.run(&problem, METHODS[0]).unwrap().unwrap();
        session.save(&run).unwrap();
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [others[1], others[0], FILE, "tridiagonal-step-0.safetensors"]
        );
    }

    #[test]
    fn another_run_is_refused_with_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let saved = problem(1);
        let refusal = |problem: &Problem, methods: &[Method]| {
            let resumed = Session::resume(folder.path(), problem, methods);
            resumed.err().expect("refused").to_string()
        };
        assert!(refusal(&saved, &METHODS).contains("nothing to resume"));

        let mut session = Session::start(folder.path(), &saved, &METHODS).unwrap();
        let run = session.run(&saved, METHODS[0]).unwrap().unwrap();
        session.save(&run).unwrap();
        assert!(Session::lies_unfinished(folder.path()));
        let refused = refusal(&problem(2), &METHODS);
        assert!(refused.contains("--seed was 1, is 2"), "{refused}");
        let mut longer = problem(1);
        longer.epochs = 3;
        let refused = refusal(&longer, &METHODS);
        assert!(refused.contains("--epochs was 2, is 3"), "{refused}");
        let refused = refusal(&saved, &METHODS[..1]);
        assert!(
            refused.contains("--optimizers was tridiagonal,adamw, is tridiagonal")
                && refused.contains("settings of adamw"),
            "{refused}"
        );
        fs::write(folder.path().join(FILE), "{}").unwrap();
        assert!(refusal(&saved, &METHODS).contains("not a session of this program"));
    }
}
