//! Shows the progress of a run: a bar on a terminal, otherwise a line now and then.

use std::io::{stdout, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// The progress of one optimizer.
pub struct Progress {
    title: String,
    bar: ProgressBar,
    to_terminal: bool,
    loss: f32,
    last_line: Instant,
}

impl Progress {
    /// Progress of `steps` steps, of which `done` were done in an earlier run.
    pub fn new(title: &str, steps: usize, done: usize) -> Self {
        let to_terminal = stdout().is_terminal();
        let target = match to_terminal {
            true => ProgressDrawTarget::stdout(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template(
            "{prefix:<17} {bar:32.cyan} {pos:>5}/{len}  {msg}  {elapsed}, {eta} left",
        )
        .expect("the template is valid")
        .progress_chars("━╸─");
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target)
            .with_style(style)
            .with_prefix(title.to_owned())
            .with_position(done as u64);
        bar.reset_eta();
        Progress {
            title: title.to_owned(),
            bar,
            to_terminal,
            loss: f32::NAN,
            last_line: Instant::now(),
        }
    }

    /// Notes that one step is done, with this loss before it.
    pub fn step(&mut self, loss: f32) {
        self.loss = loss;
        self.bar.set_message(format!("loss {loss:7.2}"));
        self.bar.inc(1);
        if !self.to_terminal && self.last_line.elapsed() >= LINES_EVERY {
            self.last_line = Instant::now();
            self.line(&format!("{} left", HumanDuration(self.bar.eta())));
        }
    }

    /// Ends the display when the run is done or stopped; the last line remains.
    pub fn end(&self, how: &str) {
        match self.to_terminal {
            true => self.bar.abandon(),
            false => self.line(how),
        }
    }

    fn line(&self, rest: &str) {
        println!(
            "{:<17} step {:>5}/{}  loss {:7.2}  {rest}",
            self.title,
            self.bar.position(),
            self.bar.length().unwrap_or(0),
            self.loss,
        );
    }
}
