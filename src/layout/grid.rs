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
//!
//! Where chains are lines along memory, blocks are whole lines, and their directions are those
//! of the same coordinates. So a process that has some of the rows of a tensor, cut between
//! blocks, has the blocks of the whole tensor.

use std::ops::Range;

use super::columns::Columns;
use super::tensor::{pooled_structure, Chains, TensorSpec};
use crate::options::Options;
use sonew_kernel::{PooledChains, PooledStructure, Rect, Run, LAG, LANES, MAX_BAND};

/// A part of a row as chains visit it: a run, or coordinates that do not exist.
/// `at` is counted from the first column that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub at: usize,
    pub len: usize,
    pub run: Option<Run>,
}

/// Which way chains go through the matrix.
#[derive(Debug, Clone)]
enum Way {
    /// Along its one row; each chain has so many coordinates. Blocks may be whole chains.
    Along { chain: usize, is_whole: bool },
    /// Across its rows, from the foot of a column to the top of the next.
    AcrossLinked(Columns),
    /// Across its rows, each column a chain.
    AcrossBroken,
    /// Rows or columns that are whole chains, of which a block has some: their correlations
    /// are pooled.
    Pooled,
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
/// Those of a block of whole chains, if these are longer or of odd lengths.
const LONGEST_BLOCK: usize = 4 * BLOCK;
/// Where they run across it: long lines, which memory likes, and many, which
/// dwarf the halo of `2 band` lines.
const BLOCK_ACROSS: usize = 16384;
/// And for a band of 1 up to so many columns, whose last lines stay in the
/// cache.
const STRIP: usize = 2048;
/// Blocks of a tensor whose correlations are pooled, and how many times the memory of their
/// sums fits into that of a plane.
const POOLED_BLOCKS: Range<usize> = 8..64;
/// The fewest of one all of whose correlations are: their sums are large.
const BLOCKS_OF_ALL: usize = 4;
const SUMS: usize = 8;
/// Chains of a block where each is a column, at least, and if enough blocks are left: memory
/// likes long rows.
const COLUMNS: Range<usize> = 256..512;

impl Grid {
    /// The grid of a valid tensor whose statistics keep `band` sub-diagonals.
    pub(crate) fn new(tensor: &TensorSpec, band: usize) -> Self {
        let len = tensor.len();
        let along = |chain| Grid::along(len, chain, band);
        match tensor.chains {
            _ if len == 0 => along(1),
            // Without a band there is nothing to follow a chain for.
            _ if band == 0 => along(len),
            Chains::Contiguous => along(len),
            Chains::ContiguousLines => match tensor.dims[..] {
                [.., _, chain] => Grid::along_lines(len, chain, band),
                _ => along(len),
            },
            Chains::Strided => {
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
            Chains::StridedLines => match tensor.dims.first() {
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
            way: Way::Along {
                chain,
                is_whole: false,
            },
            strip: len,
            strips: 1,
            step: BLOCK,
            steps: len.div_ceil(BLOCK),
            // A constant, so that blocks of directions stay aligned.
            lag: if band == 0 { 0 } else { LAG },
        }
    }

    /// The same where chains are lines, with blocks of whole ones: as many as fit, of which
    /// the first coordinate stays aligned.
    fn along_lines(len: usize, chain: usize, band: usize) -> Self {
        let grid = Grid::along(len, chain, band);
        let aligned = LANES / gcd(LANES, chain);
        let lines = (BLOCK / chain / aligned).max(1) * aligned;
        match lines.checked_mul(chain) {
            Some(step) if step <= LONGEST_BLOCK => Grid {
                way: Way::Along {
                    chain,
                    is_whole: true,
                },
                step,
                steps: len.div_ceil(step),
                ..grid
            },
            _ => grid,
        }
    }

    /// Coordinates of a block, if the blocks of rows that are cut between blocks are those of
    /// the whole tensor.
    pub(crate) fn block_len(&self) -> Option<usize> {
        let are_apart = match self.way {
            Way::Along { is_whole, .. } => is_whole || self.band == 0,
            _ => false,
        };
        are_apart.then_some(self.step)
    }

    /// The columns that belong together with those of a block: what is outside of them does
    /// not exist for its chains, or is another's to write.
    pub(crate) fn within(&self, block: usize) -> Range<usize> {
        match self.way {
            Way::Along { is_whole: true, .. } => self.statistics(block).cols,
            _ => 0..self.cols,
        }
    }

    fn across(rows: usize, cols: usize, way: Way, band: usize) -> Self {
        let widening = band.max(1).next_power_of_two();
        let lines = 32 * widening;
        let strip = cols.min(STRIP / widening);
        let step = lines.max(BLOCK_ACROSS / strip.next_multiple_of(LANES));
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

    /// The grid of a tensor that is not empty, whose chains share their correlations, and how
    /// they lie in it.
    pub(crate) fn pooled(tensor: &TensorSpec, options: &Options) -> (Self, PooledChains) {
        let (rows, length) = (tensor.runs_along(), tensor.chain_len());
        let (structure, band) = pooled_structure(options, length);
        let fewest = match structure {
            PooledStructure::All => BLOCKS_OF_ALL,
            _ => POOLED_BLOCKS.start,
        };
        let count = tensor.len() / length;
        // Those of a row of the whole tensor; where chains go through rows, all rows are here.
        let chains_in = |rows: usize| rows * tensor.row_len() / length;
        // Each block has sums of its own. There are enough for some threads, and as many
        // more as take but a part of the tensor's memory.
        let mut chains = PooledChains {
            rows,
            length,
            count,
            first: chains_in(tensor.rows().start),
            whole: chains_in(tensor.whole_rows()),
            block: 0,
            structure,
            band,
        };
        let blocks = count / (SUMS * chains.rows_of_sums());
        let (most, least) = match rows {
            true => (POOLED_BLOCKS.end, 1),
            false => (count / COLUMNS.end, COLUMNS.start),
        };
        let blocks = blocks.min(most).clamp(fewest, POOLED_BLOCKS.end);
        let fair = count.div_ceil(blocks).max(BLOCK / length).max(least);
        let block = PooledChains::of_blocks(rows, count, fair);
        chains.block = block;
        let (rows, cols) = if rows {
            (count, length)
        } else {
            (length, count)
        };
        let (strip, step) = match chains.rows {
            true => (cols, block),
            false => (block, rows),
        };
        let grid = Grid {
            rows,
            cols,
            band: 0,
            way: Way::Pooled,
            strip,
            strips: cols.div_ceil(strip),
            step,
            steps: rows.div_ceil(step),
            lag: 0,
        };
        (grid, chains)
    }

    /// Positions by which directions lag behind statistics, along the chains' way.
    pub(crate) fn lag(&self) -> usize {
        self.lag
    }

    /// Whether rows or columns are chains that share their correlations.
    pub(crate) fn is_pooled(&self) -> bool {
        matches!(self.way, Way::Pooled)
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
        self.strips * ceil(self.steps, self.longest(longest))
    }

    /// Blocks of a tile: pooled chains have large ones, which are tiles by themselves.
    fn longest(&self, longest: usize) -> usize {
        match self.way {
            Way::Pooled => 1,
            _ => longest,
        }
    }

    /// The blocks of the `i`-th of these tiles.
    pub(crate) fn tile(&self, i: usize, longest: usize) -> Range<usize> {
        let longest = self.longest(longest);
        let (strip, tile) = divided(i, ceil(self.steps, longest));
        let start = tile * longest;
        let end = self.steps.min(start + longest);
        strip * self.steps + start..strip * self.steps + end
    }

    /// Whether any of these tiles has a block that waits.
    pub(crate) fn any_waits(&self, longest: usize) -> bool {
        let linked = matches!(self.way, Way::AcrossLinked(_));
        self.needs_others() && (linked || self.steps > longest)
    }

    /// Whether directions need statistics of other blocks.
    fn needs_others(&self) -> bool {
        self.band > 0 && !matches!(self.way, Way::Along { is_whole: true, .. })
    }

    /// Whether the directions of `block` need statistics from outside `tile`.
    pub(crate) fn waits(&self, tile: &Range<usize>, block: usize) -> bool {
        if !self.needs_others() {
            return false;
        }
        let (_, step) = divided(block, self.steps);
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
        let lag = if self.needs_others() { self.lag } else { 0 };
        self.rect(block, |step| (step * self.step).saturating_sub(lag))
    }

    /// The rectangle from where `start` puts a step to where it puts the next.
    fn rect(&self, block: usize, start: impl Fn(usize) -> usize) -> Rect {
        let (strip, step) = divided(block, self.steps);
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

    /// Positions of a line of a strip, where chains run across memory. A line is
    /// whole vectors.
    pub(crate) fn line(&self) -> Option<usize> {
        match self.way {
            Way::Along { .. } | Way::Pooled => None,
            _ => Some(self.strip.next_multiple_of(LANES)),
        }
    }

    /// Positions that so many coordinates of a line take.
    pub(crate) fn pitch(&self, width: usize) -> usize {
        match self.way {
            Way::Along { .. } => width,
            _ => width.next_multiple_of(LANES),
        }
    }

    /// Where a block's directions are kept, among those of all its tensor: in
    /// the order in which they are packed.
    pub(crate) fn kept(&self, block: usize) -> Range<usize> {
        let rect = self.directions(block);
        let pitch = self.pitch(rect.cols.len());
        let start = match self.way {
            Way::Along { .. } => rect.cols.start,
            _ => {
                let (strips, _) = divided(block, self.steps);
                let before = strips * self.rows * self.strip.next_multiple_of(LANES);
                before + rect.rows.start * pitch
            }
        };
        start..start + (rect.rows.len() * pitch).next_multiple_of(LANES)
    }

    /// Room for all of them.
    pub(crate) fn all_kept(&self) -> usize {
        let last = self.blocks().checked_sub(1);
        last.map_or(0, |last| self.kept(last).end)
    }

    /// The runs of a rectangle's coordinates, and where each is among those that
    /// are kept.
    pub(crate) fn runs(&self, rect: &Rect) -> impl Iterator<Item = (usize, Run)> {
        let pitch = self.pitch(rect.cols.len());
        let (first, col, len) = (rect.rows.start, rect.cols.start, rect.cols.len());
        rect.rows
            .clone()
            .map(move |row| ((row - first) * pitch, Run { row, col, len }))
    }

    /// What chains visit in columns of a row, in order. Where chains run along
    /// memory, columns may lie outside of those that a block is [within](Grid::within),
    /// and do not exist there; where they
    /// run across it, the row may, in which case linked chains go on in other
    /// columns.
    pub(crate) fn pieces(
        &self,
        row: isize,
        cols: Range<isize>,
        within: &Range<usize>,
        mut piece: impl FnMut(Piece),
    ) {
        let Range { start, end } = cols;
        let first = within.start as isize;
        let mut col = start;
        while col < end {
            let left = (end - col) as usize;
            let (len, run) = match self.way {
                Way::Along { .. } if col < first => (left.min((first - col) as usize), None),
                Way::Along { .. } => {
                    let len = within.end.saturating_sub(col as usize).min(left);
                    let (row, col) = (0, col as usize);
                    match len {
                        0 => (left, None),
                        _ => (len, Some(Run { row, col, len })),
                    }
                }
                _ => self.cells(row, col as usize, left),
            };
            let at = (col - start) as usize;
            piece(Piece { at, len, run });
            col += len as isize;
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

    /// How many elements further in memory the next neighbour of each coordinate of a
    /// run is, if that is the same up to the last neighbour.
    pub(crate) fn neighbour_step(&self, run: Run) -> Option<usize> {
        match self.way {
            Way::Along { .. } => (run.col + run.len + self.band <= self.cols).then_some(1),
            _ => (run.row + self.band < self.rows).then_some(self.cols),
        }
    }

    /// Whether chains end among the coordinates in these columns of a row, or so
    /// shortly after that some of them lack a neighbour.
    pub(crate) fn ends(&self, row: isize, cols: Range<isize>) -> bool {
        if self.band == 0 {
            return false;
        }
        let band = self.band as isize;
        let rest = self.rows as isize - 1 - row;
        match &self.way {
            Way::Along { .. } => {
                let (_, end) = self.chain_at(cols.start);
                end - band < cols.end.min(self.cols as isize)
            }
            Way::AcrossBroken | Way::Pooled => rest < band,
            Way::AcrossLinked(columns) => {
                rest < band && self.last_columns(columns, &cols).next().is_some()
            }
        }
    }

    /// Where chains run along memory: the length of the chain that a column is in, and the
    /// column behind its last.
    pub(crate) fn chain_at(&self, col: isize) -> (usize, isize) {
        let chain = match self.way {
            Way::Along { chain, .. } => chain,
            _ => unreachable!("chains run across memory"),
        };
        let (before, _) = divided(col.max(0) as usize, chain);
        (chain, ((before + 1) * chain) as isize)
    }

    /// Which of some columns are among the last that a linked chain visits, and
    /// the number of columns after each.
    fn last_columns<'a>(
        &self,
        columns: &'a Columns,
        cols: &Range<isize>,
    ) -> impl Iterator<Item = (usize, usize)> + 'a {
        let (last, cols) = (self.cols - 1, cols.clone());
        (0..=MAX_BAND / self.rows).filter_map(move |after| {
            let (col, _) = columns.walk(last, -(after as isize));
            Some((after, col.filter(|&col| cols.contains(&(col as isize)))?))
        })
    }

    /// How many coordinates of its chain follow each coordinate in these columns
    /// of a row. `visit` is given a position, counted from the first column, a
    /// number of positions from it on, how many coordinates follow the last, and
    /// how many more each before it; later calls replace earlier ones. Positions
    /// of no coordinate may be left out.
    pub(crate) fn reach(
        &self,
        row: isize,
        cols: Range<isize>,
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) {
        let rest = (self.rows as isize - 1 - row).max(0) as usize;
        match &self.way {
            Way::Along { .. } => {
                let (mut at, end) = (cols.start.max(0) as usize, cols.end.max(0) as usize);
                let end = end.min(self.cols);
                while at < end {
                    let stop = self.chain_at(at as isize).1 as usize;
                    let upto = stop.min(end);
                    visit(
                        (at as isize - cols.start) as usize,
                        upto - at,
                        stop - upto,
                        1,
                    );
                    at = upto;
                }
            }
            Way::AcrossBroken | Way::Pooled => visit(0, cols.len(), rest, 0),
            Way::AcrossLinked(columns) => {
                visit(0, cols.len(), MAX_BAND, 0);
                for (after, col) in self.last_columns(columns, &cols) {
                    let at = (col as isize - cols.start) as usize;
                    visit(at, 1, rest + after * self.rows, 0);
                }
            }
        }
    }

    /// Which of the coordinates in these columns of a row are the first of their
    /// chain, counted from the first column.
    pub(crate) fn firsts(&self, row: usize, cols: Range<usize>) -> impl Iterator<Item = usize> {
        let (start, step, end) = match self.way {
            Way::Along { chain, .. } => {
                let first = cols.start.next_multiple_of(chain);
                (first - cols.start, chain, cols.len())
            }
            _ if row > 0 => (0, 1, 0),
            Way::AcrossBroken | Way::Pooled => (0, 1, cols.len()),
            Way::AcrossLinked(_) => (0, 1, usize::from(cols.start == 0)),
        };
        (start..end).step_by(step)
    }
}

/// The greatest common divisor; `a` is not 0.
pub(crate) fn gcd(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

/// Quotient and remainder. Processors take long to divide, which a step of a small tensor
/// would notice, and small tensors are one strip of one tile.
fn divided(number: usize, by: usize) -> (usize, usize) {
    match number < by {
        true => (0, number),
        false => (number / by, number % by),
    }
}

/// The quotient, rounded up.
fn ceil(number: usize, by: usize) -> usize {
    match number <= by {
        true => usize::from(number > 0),
        false => number.div_ceil(by),
    }
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
