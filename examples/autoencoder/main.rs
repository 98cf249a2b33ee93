//! Trains the deep autoencoder benchmark of second-order optimisation with
//! several optimizers and compares them.
//!
//! ```text
//! cargo run --release --example autoencoder
//! cargo run --release --example autoencoder -- --mnist DIR
//! cargo run --release --example autoencoder -- benchmark
//! ```

mod benchmark;
mod curves;
mod data;
mod idx;
mod math;
mod muon;
mod network;
mod plot;
mod products;
mod progress;
mod report;
mod session;
mod settings;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use sonew::options::MAX_THREADS;

use data::Images;
use progress::Progress;
use session::Session;
use settings::Method;
use train::{Problem, Record, Run};

/// Time between two checkpoints.
const SAVE_EVERY: Duration = Duration::from_secs(15);
/// Exit code of a program that was ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// Trains the deep autoencoder benchmark with several optimizers and compares
/// them. Ctrl-C stops it, --resume continues it.
#[derive(Parser)]
#[command(name = "autoencoder", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Train on the MNIST images in this folder (IDX files, plain or .gz)
    /// instead of the generated CURVES images
    #[arg(long, value_name = "DIR")]
    mnist: Option<PathBuf>,

    /// Times that every image is seen
    #[arg(long, default_value_t = 40, value_parser = positive)]
    epochs: usize,

    /// Images per step
    #[arg(long, default_value_t = 1000, value_parser = positive)]
    batch: usize,

    /// Decides the first weights and the order of the images
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Which optimizers to run
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAMES",
        default_value = "adamw,diagonal,tridiagonal,band4"
    )]
    optimizers: Vec<Method>,

    /// Threads to use; 0 means as many as there are processors. Results do not
    /// depend on it
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = threads)]
    threads: usize,

    /// Folder for the plot, the losses and the checkpoints
    #[arg(long, default_value = "target/autoencoder", value_name = "DIR")]
    out: PathBuf,

    /// Continue the run that was stopped in the output folder
    #[arg(long)]
    resume: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Search every optimizer's setting by the same rule and rerun the best with
    /// several seeds (an hour or more). What is in the results is not done again
    Benchmark(benchmark::Search),
    /// Time whole steps with each optimizer (a minute)
    Time(benchmark::Time),
    /// Write the tables and plots of the benchmark's page from its results
    Page(benchmark::Page),
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > MAX_THREADS => Err(format!("must be at most {MAX_THREADS}")),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    stop_on_ctrl_c()?;
    let done = match &arguments.command {
        None => return compare(&arguments),
        Some(Command::Benchmark(search)) => benchmark::search(search),
        Some(Command::Time(time)) => benchmark::time(time),
        Some(Command::Page(page)) => benchmark::page(page),
    };
    match done {
        Err(error) if error.is::<benchmark::Stopped>() => {
            println!("\nStopped. The same command continues with what is not in the results.");
            Ok(ExitCode::from(INTERRUPTED))
        }
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// Decides how many threads the network uses.
fn use_threads(threads: usize) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start threads")
}

/// Trains with each optimizer at its known setting.
fn compare(arguments: &Arguments) -> Result<ExitCode> {
    use_threads(arguments.threads)?;
    let problem = problem(arguments)?;
    let methods = without_repeats(&arguments.optimizers);
    if !arguments.resume && Session::lies_unfinished(&arguments.out) {
        println!(
            "{} holds an unfinished run, which this one replaces; --resume would continue it.\n",
            arguments.out.display()
        );
    }
    let mut session = match arguments.resume {
        true => Session::resume(&arguments.out, &problem, &methods)?,
        false => Session::start(&arguments.out, &problem, &methods)?,
    };

    println!("{}", problem.images.description);
    println!(
        "{} epochs, {} steps of {} images, seed {}\n",
        problem.epochs,
        problem.steps(),
        problem.batch,
        problem.seed
    );
    for method in methods {
        if let Some(run) = session.run(&problem, method)? {
            match train(run, &problem, &mut session)? {
                Some(record) => session.finish(record)?,
                None => {
                    println!("\nStopped and saved. To continue:\n  {}", resume_command());
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            }
        }
    }
    report(arguments, &problem, session.finished())?;
    Ok(ExitCode::SUCCESS)
}

fn problem(arguments: &Arguments) -> Result<Problem> {
    Ok(Problem {
        images: Images::of(arguments.mnist.as_deref(), arguments.batch)?,
        epochs: arguments.epochs,
        batch: arguments.batch,
        seed: arguments.seed,
        threads: arguments.threads,
    })
}

fn without_repeats(methods: &[Method]) -> Vec<Method> {
    let mut once = Vec::new();
    for &method in methods {
        if !once.contains(&method) {
            once.push(method);
        }
    }
    once
}

/// Asks the training loop to stop; a second Ctrl-C does not wait for it.
fn stop_on_ctrl_c() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    })
    .context("cannot watch for Ctrl-C")
}

/// Trains to the end, or until Ctrl-C: then the run is saved and `None` is
/// returned.
fn train(mut run: Run, problem: &Problem, session: &mut Session) -> Result<Option<Record>> {
    let title = run.record().method.title();
    let done = run.record().losses.len();
    let mut progress = Progress::new(title, problem.steps(), done);
    let mut last_save = Instant::now();
    while !run.finished() {
        if STOP.load(Ordering::Relaxed) {
            progress.end("stopped");
            session.save(&run)?;
            return Ok(None);
        }
        run.step()?;
        progress.step(run.last_loss());
        if last_save.elapsed() >= SAVE_EVERY {
            session.save(&run)?;
            last_save = Instant::now();
        }
    }
    progress.end("done");
    Ok(Some(run.into_record()))
}

/// The command that continues this run.
fn resume_command() -> String {
    let arguments = std::env::args().skip(1).filter(|a| a != "--resume");
    let mut command = "cargo run --release --example autoencoder --".to_owned();
    for argument in arguments.chain(["--resume".to_owned()]) {
        match argument.contains(char::is_whitespace) {
            true => command += &format!(" '{argument}'"),
            false => command += &format!(" {argument}"),
        }
    }
    command
}

fn report(arguments: &Arguments, problem: &Problem, records: &[Record]) -> Result<()> {
    let epoch = problem.steps_per_epoch();
    println!("\n{}", report::table(records, epoch));
    let path = arguments.out.join("loss.svg");
    plot::against_steps(&problem.images.description, records, epoch).draw(&path)?;
    println!("plot: {}", path.display());
    Ok(())
}
