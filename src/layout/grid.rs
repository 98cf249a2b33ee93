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

/// Where chains end among the coordinates of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    None,
    /// Nowhere but at the end of all: who needs neighbours beyond is visited
    /// here or later (see [`Grid::span`]).
    From(isize),
    Anywhere,
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
const BLOCK: usize = 8192;
/// Where they run across it: long lines, which memory likes, and many, which
/// dwarf the halo of `2 band` lines.
const BLOCK_ACROSS: usize = 16384;
/// And for a band of 1 up to so many columns, whose last lines stay in the
/// cache.
const STRIP: usize = 2048;
/// Lines are packed at multiples of the vector length.
const PITCH: usize = 16;

impl Grid {
    /// The grid of a valid tensor whose statistics keep `band` sub-diagonals.
    pub(crate) fn new(tensor: &TensorSpec, band: usize) -> Self {
        let len = tensor.len();
        let along = |chain| Grid::along(len, chain, band);
        match tensor.chains {
            // Without a band there is nothing to follow a chain for.
            _ if band == 0 => along(len),
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
        let widening = band.max(1).next_power_of_two();
        let lines = 32 * widening;
        let strip = cols.min(STRIP / widening);
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

    /// The largest stride, the largest number of positions that directions or
    /// statistics take, and how far statistics reach beyond directions.
    pub(crate) fn largest_packed(&self) -> (usize, usize, usize) {
        // Only the first and the last step of a strip have another length than
        // the others, and no strip is wider than the first.
        let steps = [0, self.steps.min(2) - 1, self.steps - 1];
        let rects = steps.map(|step| [self.directions(step), self.statistics(step)]);
        let (stride, core) = rects
            .iter()
            .flatten()
            .map(|rect| self.packed(rect))
            .fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
        (stride, core, self.lag * stride)
    }

    /// Where a block's directions are kept, among those of all its tensor: in
    /// the order in which they are packed.
    pub(crate) fn kept(&self, block: usize) -> Range<usize> {
        let rect = self.directions(block);
        let (pitch, positions) = self.packed(&rect);
        let start = match self.way {
            Way::Along { .. } => rect.cols.start,
            _ => {
                let strips = block / self.steps;
                let before = strips * self.rows * self.strip.next_multiple_of(PITCH);
                before + rect.rows.start * pitch
            }
        };
        start..start + positions.next_multiple_of(PITCH)
    }

    /// Room for all of them.
    pub(crate) fn all_kept(&self) -> usize {
        self.kept(self.blocks() - 1).end
    }

    /// The runs of a rectangle's coordinates with their packed positions.
    pub(crate) fn runs(&self, rect: &Rect) -> impl Iterator<Item = (usize, Run)> {
        let (pitch, _) = self.packed(rect);
        let (first, col, len) = (rect.rows.start, rect.cols.start, rect.cols.len());
        rect.rows
            .clone()
            .map(move |row| ((row - first) * pitch, Run { row, col, len }))
    }

    /// Where a rectangle is along its chains' way through the matrix: its
    /// columns, or rows where chains run across them.
    pub(crate) fn span(&self, rect: &Rect) -> Range<isize> {
        let range = match self.way {
            Way::Along { .. } => &rect.cols,
            _ => &rect.rows,
        };
        range.start as isize..range.end as isize
    }

    /// What chains visit at `span`, which may lie before, in or behind a
    /// rectangle (in its columns, where chains run across rows). Positions are
    /// counted from the rectangle's first coordinate, and come in order.
    pub(crate) fn pieces(&self, rect: &Rect, span: Range<isize>, mut piece: impl FnMut(Piece)) {
        let Range { start, end } = span;
        if start >= end {
            return;
        }
        match self.way {
            Way::Along { .. } => {
                let first = rect.cols.start as isize;
                let (from, to) = (start.max(0), end.min(self.cols as isize));
                let mut part = |start: isize, end: isize, exists: bool| {
                    if start < end {
                        let len = (end - start) as usize;
                        let col = start as usize;
                        piece(Piece {
                            at: start - first,
                            len,
                            run: exists.then_some(Run { row: 0, col, len }),
                        });
                    }
                };
                part(start, from.min(end), false);
                part(from, to, true);
                part(to.max(start), end, false);
            }
            _ => {
                let (pitch, _) = self.packed(rect);
                let width = rect.cols.len();
                for row in start..end {
                    let at = (row - rect.rows.start as isize) * pitch as isize;
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

    /// Where chains end in `span` of a rectangle's columns, or so shortly
    /// after it that neighbours are missing.
    pub(crate) fn ends(&self, rect: &Rect, span: &Range<isize>) -> Ends {
        if self.band == 0 {
            return Ends::None;
        }
        let reached = (span.end + self.band as isize) as usize;
        let all = match &self.way {
            Way::Along { chain } => {
                let from = span.start.max(0) as usize + 1;
                match from.next_multiple_of(*chain) {
                    end if end >= reached => return Ends::None,
                    end if end < self.cols => return Ends::Anywhere,
                    end => end,
                }
            }
            Way::AcrossBroken if reached <= self.rows => return Ends::None,
            Way::AcrossLinked(columns)
                if !self
                    .last_columns(columns, rect)
                    .any(|(after, _)| reached > self.rows * (after + 1)) =>
            {
                return Ends::None
            }
            _ => self.rows,
        };
        Ends::From(all as isize - self.band as isize)
    }

    /// Columns of a rectangle that are among the last that a linked chain
    /// visits, with the number of columns after each.
    fn last_columns<'a>(
        &self,
        columns: &'a Columns,
        rect: &'a Rect,
    ) -> impl Iterator<Item = (usize, usize)> + 'a {
        let last = self.cols - 1;
        (0..=MAX_BAND / self.rows).filter_map(move |after| {
            let (col, _) = columns.walk(last, -(after as isize));
            Some((after, col.filter(|col| rect.cols.contains(col))?))
        })
    }

    /// How many coordinates of its chain follow each coordinate in `span` of a
    /// rectangle's columns. `visit` is given a packed position, a number of
    /// positions from it on, how many coordinates follow the last, and how
    /// many more each before it; later calls replace earlier ones. Positions
    /// of no coordinate may be left out.
    pub(crate) fn reach(
        &self,
        rect: &Rect,
        span: &Range<isize>,
        mut visit: impl FnMut(isize, usize, usize, usize),
    ) {
        if let Way::Along { chain } = self.way {
            let first = rect.cols.start as isize;
            let (mut at, end) = (span.start.max(0) as usize, span.end as usize);
            let end = end.min(self.cols);
            while at < end {
                let stop = (at / chain + 1) * chain;
                let upto = stop.min(end);
                visit(at as isize - first, upto - at, stop - upto, 1);
                at = upto;
            }
            return;
        }
        let (pitch, _) = self.packed(rect);
        for row in span.clone() {
            let at = (row - rect.rows.start as isize) * pitch as isize;
            let rest = (self.rows as isize - 1 - row).max(0) as usize;
            let Way::AcrossLinked(columns) = &self.way else {
                visit(at, pitch, rest, 0);
                continue;
            };
            visit(at, pitch, MAX_BAND, 0);
            for (after, col) in self.last_columns(columns, rect) {
                let at = at + (col - rect.cols.start) as isize;
                visit(at, 1, rest + after * self.rows, 0);
            }
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
