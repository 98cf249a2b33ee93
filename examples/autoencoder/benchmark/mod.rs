//! The benchmark: every optimizer's setting found by the same search, the best
//! rerun with several seeds, and the times of their steps; and the page that
//! shows the results.

mod figures;
mod page;
mod ranges;
mod results;
mod search;
mod summary;
mod timing;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::data::{Images, Name};
use crate::settings::Method;
use crate::train::Problem;
use results::Results;
pub use search::Stopped;
use summary::Summary;

/// Options for the problem and the results.
#[derive(Args)]
struct Common {
    /// Train on the MNIST images in this folder (IDX files, plain or .gz)
    /// instead of the generated CURVES images
    #[arg(long, value_name = "DIR")]
    mnist: Option<PathBuf>,

    /// Threads to use; 0 means as many as there are processors. Losses do not
    /// depend on it
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = crate::threads)]
    threads: usize,

    /// Where the results go, one line of JSON each
    #[arg(
        long,
        default_value = "target/benchmark/results.jsonl",
        value_name = "FILE"
    )]
    results: PathBuf,
}

/// Options of the search.
#[derive(Args)]
pub struct Search {
    #[command(flatten)]
    common: Common,

    /// Times that every image is seen
    #[arg(long, default_value_t = 40, value_parser = crate::positive)]
    epochs: usize,

    /// Images per step
    #[arg(long, default_value_t = 1000, value_parser = crate::positive)]
    batch: usize,

    /// Which optimizers to try
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAMES",
        default_value = "adamw,tridiagonal,band4,diagonal,rmsprop,sgd,\
                         pooled-band32,pooled-rank16,muon,pooled-all"
    )]
    optimizers: Vec<Method>,
}

/// Options of the timing.
#[derive(Args)]
pub struct Time {
    #[command(flatten)]
    common: Common,

    /// How often each optimizer has its turn of 4 steps
    #[arg(long, default_value_t = 20, value_parser = crate::positive)]
    rounds: usize,
}

/// Options of the page.
#[derive(Args)]
pub struct Page {
    /// The page; its plots and results lie in a folder of the same name
    #[arg(default_value = "docs/benchmark.md", value_name = "FILE")]
    page: PathBuf,
}

/// Searches and reruns, for each optimizer in turn.
pub fn search(arguments: &Search) -> Result<()> {
    let mut problem = problem(&arguments.common, arguments.epochs, arguments.batch)?;
    let mut results = Results::open(&arguments.common.results)?;
    for &method in &arguments.optimizers {
        problem.seed = search::SEARCH_SEED;
        let best = search::search(&problem, method, &mut results)?;
        println!("best of {}: {best:?}", method.title());
        for &state in method.states() {
            search::rerun(&mut problem, method, state, best, &mut results)?;
        }
    }
    Ok(())
}

/// Times the steps.
pub fn time(arguments: &Time) -> Result<()> {
    let problem = problem(&arguments.common, 40, 1000)?;
    let mut results = Results::open(&arguments.common.results)?;
    let timing = timing::measure(&problem, arguments.rounds)?;
    print!("{}", page::cost_table(&timing));
    results.add_timing(timing)
}

fn problem(arguments: &Common, epochs: usize, batch: usize) -> Result<Problem> {
    crate::use_threads(arguments.threads)?;
    Ok(Problem {
        images: Images::of(arguments.mnist.as_deref(), batch)?,
        epochs,
        batch,
        seed: search::SEARCH_SEED,
        threads: arguments.threads,
    })
}

/// Writes the tables of the page and draws its plots.
pub fn page(arguments: &Page) -> Result<()> {
    let folder = arguments.page.with_extension("");
    write_page(&arguments.page, &folder, &folder)
}

/// Takes the results from one folder and leaves plots in another.
fn write_page(page: &Path, results: &Path, plots: &Path) -> Result<()> {
    let results = Results::open(&results.join("results.jsonl"))?;
    let curves = Summary::new(&results, Name::Curves)?;
    let mnist = Summary::new(&results, Name::Mnist)?;
    let text =
        fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let filled = page::fill(&text, &curves, &mnist)?;
    fs::write(page, filled).with_context(|| format!("cannot write {}", page.display()))?;
    figures::draw(plots, Name::Curves, &curves)?;
    figures::draw(plots, Name::Mnist, &mnist)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::setting;

    fn documents() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
    }

    /// `-- page` changes nothing, because it was called after the last results.
    #[test]
    fn the_page_shows_the_results() {
        let results = documents().join("benchmark");
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("benchmark.md");
        fs::copy(documents().join("benchmark.md"), &page).unwrap();
        write_page(&page, &results, folder.path()).unwrap();
        let mut files = vec![(documents().join("benchmark.md"), page)];
        for name in [
            "curves-steps",
            "curves-seconds",
            "mnist-steps",
            "mnist-seconds",
        ] {
            let plot = |folder: &Path| folder.join(format!("{name}.svg"));
            files.push((plot(&results), plot(folder.path())));
        }
        for (old, new) in files {
            let text = |path: &Path| fs::read_to_string(path).unwrap();
            assert!(text(&old) == text(&new), "{}: run `page`", old.display());
        }
    }

    #[test]
    fn the_settings_are_those_that_the_search_found() {
        let results = Results::open(&documents().join("benchmark/results.jsonl")).unwrap();
        for data in [Name::Curves, Name::Mnist] {
            let summary = Summary::new(&results, data).unwrap();
            for row in &summary.rows {
                let known = setting(data, row.method);
                assert_eq!(known, row.setting, "{data:?}, {}", row.method.key());
            }
        }
    }
}
