//! How a step cuts a tensor into tiles (what a thread takes at a time) and
//! blocks (what fits the cache).
//!
//! Memory is seen as a matrix: one line where chains run along memory, `d0`
//! lines where they run across it. Blocks depend on the tensor alone, so sums
//! over blocks do not depend on how many threads share them, or in which
//! tiles.
//!
//! The direction of a coordinate needs the new state of its neighbours up to
//! `band` further. So the block of directions lies `lag` positions behind the
//! block of statistics: when one block after the other has its statistics
//! updated, all that its directions need is there. Only the directions of a
//! tile's first block (and, where columns are linked, of its last) must wait
//! until the neighbouring tiles are done.
//!
//! ```text
//! statistics |    0    |    1    |    2    |
//! directions |  0   |    1    |     2      |
//! ```

use std::ops::Range;

use super::columns::Columns;
use super::tensor::{Chains, TensorSpec};
use crate::options::MAX_BAND;

/// A rectangle of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rect {
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

/// A run of columns in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub row: usize,
    pub col: usize,
    pub len: usize,
}

/// Positions of a block, and what stands there: a run, or coordinates that do
/// not exist. `at` is counted from the block's first coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub at: isize,
    pub len: usize,
    pub run: Option<Run>,
}

/// Which way chains go through the matrix.
#[derive(Debug, Clone)]
enum Way {
    /// Along its one row; each chain has so many coordinates.
    Along { chain: usize },
    /// Across its rows, from the foot of a column to the top of the next.
    AcrossLinked(Columns),
    /// Across its rows, each column a chain.
    AcrossBroken,
}

/// The tiles and blocks of one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    rows: usize,
    cols: usize,
    band: usize,
    way: Way,
    /// Columns of a strip; blocks follow one another inside a strip.
    strip: usize,
    strips: usize,
    /// Length of a block along its strip: columns, or rows where chains run
    /// across them.
    step: usize,
    /// Blocks of a strip.
    steps: usize,
    lag: usize,
}

/// Coordinates of a block where chains run along memory.
const BLOCK: usize = 2048;
/// About the same where they run across it: wider lines, larger blocks.
const BLOCK_ACROSS: usize = 4096;
/// Lines are packed at multiples of the vector length.
const PITCH: usize = 16;

impl Grid {
    /// The grid of a valid tensor whose statistics keep `band` sub-diagonals.
    pub(crate) fn new(tensor: &TensorSpec, band: usize) -> Self {
        let len = tensor.len();
        let along = |chain| Grid::along(len, chain, band);
        match tensor.chains {
            Chains::RowMajor => along(len),
            Chains::Rows => along(tensor.dims.last().copied().unwrap_or(1)),
            Chains::ColumnMajor => {
                // Dimensions of size 1 do not change the order.
                let dims: Vec<usize> = tensor.dims.iter().copied().filter(|&d| d > 1).collect();
                match dims.as_slice() {
                    [] | [_] => along(len),
                    [rows, rest @ ..] => Grid::across(
                        *rows,
                        len / rows,
                        Way::AcrossLinked(Columns::new(rest)),
                        band,
                    ),
                }
            }
            Chains::Columns => match tensor.dims.first() {
                Some(&rows) if rows < len => {
                    Grid::across(rows, len / rows, Way::AcrossBroken, band)
                }
                _ => along(len),
            },
        }
    }

    fn along(len: usize, chain: usize, band: usize) -> Self {
        Grid {
            rows: 1,
            cols: len,
            band,
            way: Way::Along { chain },
            strip: len,
            strips: 1,
            step: BLOCK,
            steps: len.div_ceil(BLOCK),
            // A constant, so that blocks of directions stay aligned.
            lag: if band == 0 { 0 } else { MAX_BAND },
        }
    }

    fn across(rows: usize, cols: usize, way: Way, band: usize) -> Self {
        // The halo of a block is `2 band` lines: enough lines to dwarf it.
        let lines = match band {
            0..=1 => 16,
            2..=4 => 32,
            _ => 64,
        };
        let strip = cols.min(BLOCK_ACROSS / lines);
        let step = lines.max(BLOCK_ACROSS / strip.next_multiple_of(PITCH));
        Grid {
            rows,
            cols,
            band,
            way,
            strip,
            strips: cols.div_ceil(strip),
            step,
            steps: rows.div_ceil(step),
            lag: band,
        }
    }

    /// Rows and columns of the matrix.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    pub(crate) fn band(&self) -> usize {
        self.band
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.strips * self.steps
    }

    /// How many tiles there are, if none is longer than `longest` blocks.
    pub(crate) fn tiles(&self, longest: usize) -> usize {
        self.strips * self.steps.div_ceil(longest)
    }

    /// The blocks of the `i`-th of these tiles.
    pub(crate) fn tile(&self, i: usize, longest: usize) -> Range<usize> {
        let tiles = self.steps.div_ceil(longest);
        let (strip, tile) = (i / tiles, i % tiles);
        let start = tile * longest;
        let end = self.steps.min(start + longest);
        strip * self.steps + start..strip * self.steps + end
    }

    /// Whether any of these tiles has a block that waits.
    pub(crate) fn any_waits(&self, longest: usize) -> bool {
        let linked = matches!(self.way, Way::AcrossLinked(_));
        self.band > 0 && (linked || self.steps > longest)
    }

    /// Whether the directions of `block` need statistics from outside `tile`.
    pub(crate) fn waits(&self, tile: &Range<usize>, block: usize) -> bool {
        if self.band == 0 {
            return false;
        }
        let step = block % self.steps;
        let linked = matches!(self.way, Way::AcrossLinked(_));
        let before = block == tile.start && (step > 0 || linked);
        let after = linked && step + 1 == self.steps;
        before || after
    }

    /// Where a block's statistics are.
    pub(crate) fn statistics(&self, block: usize) -> Rect {
        self.rect(block, |step| step * self.step)
    }

    /// Where a block's directions are.
    pub(crate) fn directions(&self, block: usize) -> Rect {
        self.rect(block, |step| (step * self.step).saturating_sub(self.lag))
    }

    /// The rectangle from where `start` puts a step to where it puts the next.
    fn rect(&self, block: usize, start: impl Fn(usize) -> usize) -> Rect {
        let (strip, step) = (block / self.steps, block % self.steps);
        let last = step + 1 == self.steps;
        let end = |length| if last { length } else { start(step + 1) };
        match self.way {
            Way::Along { .. } => Rect {
                rows: 0..1,
                cols: start(step)..end(self.cols),
            },
            _ => Rect {
                rows: start(step)..end(self.rows),
                cols: strip * self.strip..self.cols.min((strip + 1) * self.strip),
            },
        }
    }

    /// Distance at which chain neighbours of a rectangle are packed, and
    /// the number of positions that its coordinates take.
    pub(crate) fn packed(&self, rect: &Rect) -> (usize, usize) {
        match self.way {
            Way::Along { .. } => (1, rect.cols.len()),
            _ => {
                let pitch = rect.cols.len().next_multiple_of(PITCH);
                (pitch, rect.rows.len() * pitch)
            }
        }
    }

    /// The largest such number of positions, and with it the stride.
    pub(crate) fn largest_packed(&self) -> (usize, usize) {
        // Only the first and the last step of a strip have another length than
        // the others, and no strip is wider than the first.
        [0, self.steps.min(2) - 1, self.steps - 1]
            .map(|step| self.packed(&self.directions(step)))
            .into_iter()
            .fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)))
    }

    /// The runs of a rectangle's coordinates with their packed positions.
    pub(crate) fn runs(&self, rect: &Rect) -> impl Iterator<Item = (usize, Run)> {
        let (pitch, _) = self.packed(rect);
        let (first, col, len) = (rect.rows.start, rect.cols.start, rect.cols.len());
        rect.rows
            .clone()
            .map(move |row| ((row - first) * pitch, Run { row, col, len }))
    }

    /// Everything that is packed for a rectangle: its coordinates, `band`
    /// chain neighbours on both sides, and what fills the lines up.
    pub(crate) fn pieces(&self, rect: &Rect, mut piece: impl FnMut(Piece)) {
        let band = self.band as isize;
        match self.way {
            Way::Along { .. } => {
                let Range { start, end } = rect.cols;
                let first = start.saturating_sub(self.band);
                let last = self.cols.min(end + self.band);
                let mut fill = |at: isize, len: usize, run| {
                    if len > 0 {
                        piece(Piece { at, len, run });
                    }
                };
                let (before, behind) = (start - first, last - end);
                let run = Run {
                    row: 0,
                    col: first,
                    len: last - first,
                };
                fill(-band, self.band - before, None);
                fill(-(before as isize), run.len, Some(run));
                fill((last - start) as isize, self.band - behind, None);
            }
            _ => {
                let (pitch, _) = self.packed(rect);
                let width = rect.cols.len();
                let top = rect.rows.start as isize;
                for row in top - band..rect.rows.end as isize + band {
                    let at = (row - top) * pitch as isize;
                    let mut done = 0;
                    while done < width {
                        let (len, run) = self.cells(row, rect.cols.start + done, width - done);
                        piece(Piece {
                            at: at + done as isize,
                            len,
                            run,
                        });
                        done += len;
                    }
                    if width < pitch {
                        piece(Piece {
                            at: at + width as isize,
                            len: pitch - width,
                            run: None,
                        });
                    }
                }
            }
        }
    }

    /// The cells that a chain visits in `row` of columns from `col`, where
    /// rows beyond the matrix continue in other columns: how many of the
    /// `len` columns stay together, and where they are.
    fn cells(&self, row: isize, col: usize, len: usize) -> (usize, Option<Run>) {
        let rows = self.rows as isize;
        let (steps, row) = (row.div_euclid(rows), row.rem_euclid(rows) as usize);
        let (col, len) = match &self.way {
            _ if steps == 0 => (Some(col), len),
            Way::AcrossLinked(columns) => {
                let (col, run) = columns.walk(col, steps);
                (col, run.min(len))
            }
            _ => (None, len),
        };
        (len, col.map(|col| Run { row, col, len }))
    }

    /// The runs of a rectangle with the runs of their chain neighbours at
    /// distance `k`; `None` where the matrix or a column ends. Breaks between
    /// chains along memory are not seen here: see [`Grid::breaks`].
    pub(crate) fn neighbours(
        &self,
        rect: &Rect,
        k: usize,
        mut visit: impl FnMut(Run, Option<Run>),
    ) {
        for (_, whole) in self.runs(rect) {
            let Run { row, .. } = whole;
            let mut done = 0;
            while done < whole.len {
                let (col, left) = (whole.col + done, whole.len - done);
                let (len, other) = match self.way {
                    Way::Along { .. } => self.ahead(col, k, left),
                    _ => self.cells((row + k) as isize, col, left),
                };
                visit(Run { row, col, len }, other);
                done += len;
            }
        }
    }

    /// As [`Grid::cells`], along memory: the run `k` further.
    fn ahead(&self, col: usize, k: usize, len: usize) -> (usize, Option<Run>) {
        let left = self.cols.saturating_sub(col + k);
        if left == 0 {
            return (len, None);
        }
        let len = len.min(left);
        let run = Run {
            row: 0,
            col: col + k,
            len,
        };
        (len, Some(run))
    }

    /// Where chains along memory end inside the tensor: their ends in
    /// `from..to`, exclusive of the last coordinate. None elsewhere.
    pub(crate) fn breaks(&self, from: usize, to: usize) -> impl Iterator<Item = usize> {
        let (chain, end) = match self.way {
            Way::Along { chain } if self.is_broken_along() => (chain, to.min(self.cols)),
            _ => (1, 0),
        };
        (from.next_multiple_of(chain)..end).step_by(chain)
    }

    /// Whether there are several chains along memory.
    fn is_broken_along(&self) -> bool {
        matches!(self.way, Way::Along { chain } if chain < self.cols)
    }

    /// Whether windows can look across a break into another chain. With one
    /// sub-diagonal the entry that would is zero, and nothing else is seen.
    pub(crate) fn looks_across_breaks(&self) -> bool {
        self.is_broken_along() && self.band > 1
    }

    /// Chains along memory that reach into a rectangle or the `band` positions
    /// before it: the packed position and length of each one's part, and how
    /// many of its coordinates follow.
    pub(crate) fn reach(&self, rect: &Rect, mut visit: impl FnMut(isize, usize, usize)) {
        let Way::Along { chain } = self.way else {
            return;
        };
        let mut at = rect.cols.start.saturating_sub(self.band);
        while at < rect.cols.end {
            let stop = (at / chain + 1) * chain;
            let end = stop.min(rect.cols.end);
            visit(at as isize - rect.cols.start as isize, end - at, stop - end);
            at = end;
        }
    }

    /// The packed positions of coordinates that are the first of their chain.
    pub(crate) fn firsts(&self, rect: &Rect) -> impl Iterator<Item = usize> {
        let (start, step, end) = match self.way {
            Way::Along { chain } => {
                let first = rect.cols.start.next_multiple_of(chain);
                (first - rect.cols.start, chain, rect.cols.len())
            }
            _ if rect.rows.start > 0 => (0, 1, 0),
            Way::AcrossBroken => (0, 1, rect.cols.len()),
            Way::AcrossLinked(_) => (0, 1, usize::from(rect.cols.start == 0)),
        };
        (start..end).step_by(step)
    }
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
