//! What is done to one block, a chunk at a time.

use std::ops::Range;

use sonew_kernel::{
    parts_of_line, Access, Coordinates, Directions, Gradient, Incoming, Kernels, Lines, Norms,
    PooledBlock, Reading, Rect, Rule, Run, Shape, Squares, Wanted, Workspace, CHUNK, LANES,
};

use super::pooled::Pooled;
use super::units::Units;
use crate::layout::{Grid, DIAGONAL};

/// How many elements ahead memory is asked for, where chains run along it;
/// otherwise it is asked for a row or two ahead. Processors look ahead by themselves,
/// but stop at the end of a page and of a row.
const AHEAD: usize = 512;

/// So many coordinates between the ends of chains are worth a loop of their own.
const WORTH_A_LOOP: usize = 320;

/// How one tensor is treated in a sweep.
pub(super) struct Job<'a> {
    pub grid: &'a Grid,
    pub kernels: Kernels,
    pub rule: Rule,
    pub units: Units,
    /// If its chains share their correlations.
    pub pooled: Option<&'a Pooled>,
    /// The number of the tensor's step.
    pub number: u64,
    /// Their products are not added up together with the statistics, since the damping
    /// follows from these.
    pub adds_later: bool,
}

/// What a sweep tells of a block: the squares of the norms of its directions and of its
/// reference, and the largest entry of its diagonal, of those whose state took in the
/// gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub direction: f64,
    pub reference: f64,
    pub largest: f64,
}

/// A block on its way: what it works on, and with.
struct Pass<'p, 'a> {
    job: &'p Job<'p>,
    access: &'p mut Access<'a>,
    work: &'p mut Workspace,
    /// Where state takes in the gradient.
    state: Option<Rect>,
    /// Where directions are computed, and what becomes of them.
    target: Option<(Rect, Directions)>,
    /// The columns in which its neighbours are.
    within: Range<usize>,
    /// Where the block's directions are kept.
    kept: usize,
    norms: Norms,
}

impl Job<'_> {
    /// The block's state takes in its gradient; then its directions are
    /// computed, unless they have to wait.
    pub(super) fn statistics(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
        then: Option<Directions>,
    ) -> Totals {
        let state = Some(self.grid.statistics(block));
        let target = then.map(|then| (self.grid.directions(block), then));
        self.run(block, access, work, state, target)
    }

    /// The block's directions, from the state as it is; returns the squares of their norm.
    pub(super) fn directions(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
        then: Directions,
    ) -> f64 {
        let target = (self.grid.directions(block), then);
        self.run(block, access, work, None, Some(target)).direction
    }

    /// Adds up the products of the block's gradient, which its state has taken in.
    pub(super) fn products(&self, block: usize, access: &mut Access<'_>, work: &mut Workspace) {
        if let Some(pooled) = self.pooled {
            self.run_pooled(pooled, block, access, work, (false, true), None);
        }
    }

    /// The largest l1 of the block's statistics.
    pub(super) fn largest_l1(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
    ) -> f64 {
        let target = Some((self.grid.directions(block), Directions::Measured));
        let mut pass = self.pass(block, access, work, None, target);
        pass.largest_l1() * self.units.statistics
    }

    fn run(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
        state: Option<Rect>,
        target: Option<(Rect, Directions)>,
    ) -> Totals {
        if let Some(pooled) = self.pooled {
            let (takes_in, then) = (state.is_some(), target.map(|(_, then)| then));
            let what = (takes_in, takes_in && !self.adds_later);
            return self.run_pooled(pooled, block, access, work, what, then);
        }
        let mut pass = self.pass(block, access, work, state, target);
        match self.grid.line() {
            None => pass.along(),
            Some(_) => pass.across(),
        }
        self.totals(pass.norms)
    }

    /// The same of a block of chains that share their correlations; `what` tells whether
    /// its state takes in the gradient, and whether products are added up.
    fn run_pooled(
        &self,
        pooled: &Pooled,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
        (takes_in, adds_up): (bool, bool),
        then: Option<Directions>,
    ) -> Totals {
        let rect = self.grid.statistics(block);
        let kept_row = self.grid.pitch(rect.cols.len());
        let chains = if pooled.chains.rows {
            rect.rows
        } else {
            rect.cols
        };
        let mut products = adds_up.then(|| pooled.block(block));
        let mut norms = Norms::default();
        self.kernels.begin(work, shape(self.grid));
        let block = PooledBlock {
            chains,
            takes_in,
            products: products.as_mut().map(|products| &mut products[..]),
            step: self.number,
            then,
            kept: (self.grid.kept(block).start, kept_row),
        };
        let (kernels, rule) = (&self.kernels, &self.rule);
        let Pooled {
            chains, inverse, ..
        } = pooled;
        kernels.pooled(work, access, rule, chains, inverse, block, &mut norms);
        self.totals(norms)
    }

    fn totals(&self, norms: Norms) -> Totals {
        let (unit, taken_in) = (&self.units, norms.taken_in);
        let total = |squares: Squares, unit: f64| squares.total() * unit * unit;
        Totals {
            direction: total(norms.direction, unit.direction),
            reference: total(taken_in.reference, unit.reference),
            largest: self.kernels.largest(taken_in.largest) * unit.statistics,
        }
    }

    // It is large: where it is made it stays.
    #[inline(always)]
    fn pass<'p, 'a>(
        &'p self,
        block: usize,
        access: &'p mut Access<'a>,
        work: &'p mut Workspace,
        state: Option<Rect>,
        target: Option<(Rect, Directions)>,
    ) -> Pass<'p, 'a> {
        self.kernels.begin(work, shape(self.grid));
        Pass {
            job: self,
            access,
            work,
            state,
            target,
            within: self.grid.within(block),
            kept: self.grid.kept(block).start,
            norms: Norms::default(),
        }
    }
}

/// The shape of a tensor's workspace.
pub(super) fn shape(grid: &Grid) -> Shape {
    Shape {
        band: grid.band(),
        line: grid.line(),
    }
}

impl Pass<'_, '_> {
    /// The whole block, where chains run along memory.
    fn along(&mut self) {
        let state = self.state.as_ref().map(|rect| rect.cols.clone());
        let Some((target, _)) = &self.target else {
            let state = state.unwrap_or_default();
            for col in state.clone().step_by(CHUNK) {
                self.work.along(false);
                let intake = self.take_in(0, col as isize, CHUNK.min(state.end - col), 0);
                self.update(intake);
            }
            return;
        };
        let (start, end) = (target.cols.start as isize, target.cols.end as isize);
        let lag = self.job.grid.lag() as isize;
        let state = state.map_or(0..0, |state| state.start as isize..state.end as isize);
        // At hand come first the neighbours before the block's directions, and new
        // with them those that directions lag behind.
        let mut at_hand = start - lag;
        let mut new = at_hand;
        while at_hand < end {
            let left = (end - at_hand) as usize;
            let count = self.count_along(at_hand, left, &state);
            let next = at_hand + count as isize;
            self.work.along(new == at_hand);
            let intake = self.new_coordinates(new..next + lag, &state);
            let (first, last) = (at_hand.max(start), next.min(end));
            let (row, col, len) = (0, first as usize, (last - first) as usize);
            let wanted = ((first - at_hand) as usize, Run { row, col, len });
            self.solve(
                intake,
                (0, at_hand),
                count,
                wanted,
                (first - start) as usize,
            );
            (at_hand, new) = (next, next + lag);
        }
    }

    /// How many coordinates are at hand at once, of so many that are left: a chunk, or
    /// any number in the common kinds of steps. Those whose chains end come by themselves,
    /// unless chains are so short that ends are everywhere.
    fn count_along(&self, at_hand: isize, left: usize, state: &Range<isize>) -> usize {
        let chunk = CHUNK.min(left.next_multiple_of(LANES));
        let grid = self.job.grid;
        let (band, lag) = (grid.band() as isize, grid.lag() as isize);
        let end = if state.is_empty() {
            isize::MAX
        } else {
            state.end
        };
        let (chain, chain_end) = grid.chain_at(at_hand);
        // No chain ends among those at hand, nor among the new ones, which are ahead of these.
        let most = end.min(chain_end - band) - lag - at_hand;
        let count = left.min(most.max(0) as usize);
        let count = count - count % LANES;
        // For fewer it is not worth it.
        if count < WORTH_A_LOOP {
            let past = (chain_end - at_hand) as usize;
            return match chain < WORTH_A_LOOP + 4 * LANES {
                true => chunk,
                false => chunk.min(past.next_multiple_of(LANES)),
            };
        }
        if !state.is_empty() && self.is_unlimited() {
            count
        } else {
            count.min(CHUNK)
        }
    }

    /// Whether whole vectors go through any number at a time.
    fn is_unlimited(&self) -> bool {
        let (kernels, band, rule) = (self.job.kernels, self.job.grid.band(), &self.job.rule);
        let then = self.target.as_ref().map(|&(_, then)| then);
        then.is_some_and(|then| kernels.is_unlimited(band, self.access, rule, then))
    }

    /// The whole block, where they run across it.
    fn across(&mut self) {
        let band = self.job.grid.band() as isize;
        let signed = |rows: &Range<usize>| rows.start as isize..rows.end as isize;
        let state = self.state.as_ref().map(|rect| signed(&rect.rows));
        let target = self.target.as_ref().map(|(rect, _)| signed(&rect.rows));
        let taking = state.clone().unwrap_or(0..0);
        let (rows, cols) = match (&self.target, &self.state) {
            (Some((rect, _)), _) => {
                let rows = signed(&rect.rows);
                (rows.start - band..rows.end + band, rect.cols.clone())
            }
            (None, Some(rect)) => (signed(&rect.rows), rect.cols.clone()),
            (None, None) => return,
        };
        let rows = rows.start..rows.end.max(taking.end);
        let pitch = self.job.grid.pitch(cols.len());
        let mut next_row = rows.start;
        while next_row < rows.end {
            let row = next_row;
            let lines = self.lines(row, &taking, target.as_ref());
            if !lines.is_empty() {
                next_row = lines.end as isize;
                let first = target.as_ref().map_or(row, |target| target.start + band);
                let lines = Lines {
                    rows: lines,
                    cols: cols.clone(),
                    takes_in: taking.contains(&row),
                    kept: self.kept + (row - first) as usize * pitch,
                    pitch,
                };
                let then = self.target.as_ref().map(|&(_, then)| then);
                let rule = &self.job.rule;
                let norms = &mut self.norms;
                self.job
                    .kernels
                    .lines(self.work, self.access, rule, &lines, then, norms);
                continue;
            }
            next_row += 1;
            for part in parts_of_line(cols.len(), false) {
                let (at, count) = (part.start, part.len());
                let col = cols.start + at;
                self.work.across(row, at);
                let intake = match taking.contains(&row) {
                    true => self.take_in(row, col as isize, count, 0),
                    false => {
                        self.read(row, col as isize, count, 0);
                        None
                    }
                };
                let padded = count.next_multiple_of(LANES);
                if padded > count {
                    self.job.kernels.pad(self.work, count, padded - count);
                }
                // At hand is the row so many before.
                let at_hand = row - band;
                let Some(target) = target.as_ref().filter(|_| at_hand >= rows.start) else {
                    self.update(intake);
                    continue;
                };
                let (row, len, kept) = match target.contains(&at_hand) {
                    true => (
                        at_hand,
                        count,
                        (at_hand - target.start) as usize * pitch + at,
                    ),
                    false => (0, 0, 0),
                };
                let row = row as usize;
                let wanted = (0, Run { row, col, len });
                self.solve(intake, (at_hand, col as isize), padded, wanted, kept);
            }
            self.job.kernels.end_line(self.work);
        }
    }

    /// The rows from this one on that go through at once: those whose neighbours all
    /// exist, of which each comes in the same way, and directions are wanted of as
    /// many, or of none.
    fn lines(
        &self,
        row: isize,
        taking: &Range<isize>,
        target: Option<&Range<isize>>,
    ) -> Range<usize> {
        let (rows, band) = (
            self.job.grid.shape().0 as isize,
            self.job.grid.band() as isize,
        );
        let end = match taking.contains(&row) {
            true => taking.end.min(rows - band),
            false if row < taking.start => rows.min(taking.start),
            false => rows,
        };
        let end = match target {
            None => end,
            Some(target) if target.contains(&(row - band)) => end.min(target.end + band),
            Some(_) => row,
        };
        row.max(0) as usize..end.max(0) as usize
    }

    /// New coordinates where chains run along memory: those that have state to be
    /// updated will take in the gradient, the others come as they are.
    fn new_coordinates(&mut self, cols: Range<isize>, state: &Range<isize>) -> Option<Incoming> {
        let start = state.start.clamp(cols.start, cols.end);
        let end = state.end.clamp(start, cols.end);
        let from = |col: isize| (col - cols.start) as usize;
        self.read(0, cols.start, from(start), 0);
        let taking = self.take_in(0, start, (end - start) as usize, from(start));
        self.read(0, end, (cols.end - end) as usize, from(end));
        taking
    }

    /// The state of coordinates that exist takes in the gradient, and comes into
    /// the chunk from the `from`-th new coordinate on: whole vectors later, together
    /// with the directions, others at once.
    fn take_in(&mut self, row: isize, col: isize, count: usize, from: usize) -> Option<Incoming> {
        if count == 0 {
            return None;
        }
        let rest = count % LANES;
        let (row, col, len) = (row as usize, col as usize, count - rest);
        let whole = (len > 0).then(|| self.taking(Run { row, col, len }, from));
        if rest == 0 {
            return whole;
        }
        self.update(whole);
        let (col, from, len) = (col + len, from + len, rest);
        let rest = self.taking(Run { row, col, len }, from);
        self.update(Some(rest));
        None
    }

    /// Prepares a run that takes in the gradient.
    fn taking(&mut self, run: Run, from: usize) -> Incoming {
        let Pass {
            job, access, work, ..
        } = self;
        let (row, cols) = (
            run.row as isize,
            run.col as isize..(run.col + run.len) as isize,
        );
        let ends = job.grid.ends(row, cols.clone());
        if ends {
            job.grid.reach(row, cols.clone(), |at, count, rest, step| {
                let at = (from + at, count);
                let new = Coordinates::New;
                job.kernels.set_reach(work, new, at, rest, step);
            });
        }
        // The gradient is read where it lies, if that of the neighbours lies there,
        // too; what does not is copied.
        let in_place = job.kernels.reads_in_place(access, &job.rule);
        let in_place = in_place && run.len.is_multiple_of(LANES);
        let step = job.grid.neighbour_step(run).filter(|_| in_place);
        let gradient = step.map_or(Gradient::InChunk, |step| Gradient::InMemory { step });
        if gradient == Gradient::InChunk {
            self.copy_gradient(row, cols, from);
        }
        Incoming {
            run,
            from,
            gradient,
            ends,
        }
    }

    /// The state takes in the gradient.
    fn update(&mut self, taking: Option<Incoming>) {
        if let Some(taking) = &taking {
            let (kernels, rule) = (self.job.kernels, &self.job.rule);
            let taken_in = &mut self.norms.taken_in;
            kernels.update(self.work, self.access, rule, taking, taken_in);
        }
    }

    /// The gradient of coordinates, and of their neighbours, comes into the chunk.
    fn copy_gradient(&mut self, row: isize, cols: Range<isize>, from: usize) {
        let Pass {
            job,
            access,
            work,
            within,
            ..
        } = self;
        let (kernels, scale) = (job.kernels, job.rule.scale);
        let band = job.grid.band() as isize;
        let mut copy = |neighbour: usize, row: isize, cols: Range<isize>| {
            job.grid.pieces(row, cols, within, |piece| {
                let at = (neighbour, from + piece.at);
                match piece.run {
                    None => kernels.pad_gradient(work, at, piece.len),
                    Some(run) => kernels.gradient(work, access, run, at, scale),
                }
            });
        };
        match job.grid.line() {
            None => copy(0, 0, cols.start..cols.end + band.max(LANES as isize)),
            Some(_) => {
                for neighbour in 0..=band {
                    copy(neighbour as usize, row + neighbour, cols.clone());
                }
            }
        }
    }

    /// The state of coordinates from a column of a row on comes into the chunk as
    /// it is, as far as they exist, from the `from`-th new coordinate on.
    fn read(&mut self, row: isize, col: isize, count: usize, from: usize) {
        if count > 0 {
            let planes = 0..2 + self.job.grid.band();
            let rule = self.job.rule;
            let reading = |plane| rule.reading(plane);
            self.read_planes(row, col..col + count as isize, from, planes, reading);
        }
    }

    /// Some planes of it, and what they become.
    fn read_planes(
        &mut self,
        row: isize,
        cols: Range<isize>,
        from: usize,
        planes: Range<usize>,
        reading: impl Fn(usize) -> Reading,
    ) {
        let Pass {
            job,
            access,
            work,
            within,
            ..
        } = self;
        let kernels = job.kernels;
        job.grid.pieces(row, cols, within, |piece| {
            let at = from + piece.at;
            let Some(run) = piece.run else {
                return kernels.pad(work, at, piece.len);
            };
            for plane in planes.clone() {
                kernels.read(work, access, run, (plane, at), reading(plane));
            }
        });
    }

    /// The directions of `count` coordinates at hand, after the state has taken in
    /// the gradient. Those of a run, which begins with the `from`-th of them, are
    /// wanted; they are kept so far behind the block's first.
    fn solve(
        &mut self,
        taking: Option<Incoming>,
        (row, col): (isize, isize),
        count: usize,
        (from, run): (usize, Run),
        kept: usize,
    ) {
        let Pass {
            job, access, work, ..
        } = self;
        let cols = col..col + count as isize;
        let ends = job.grid.ends(row, cols.clone());
        if ends {
            job.grid.reach(row, cols, |at, count, rest, step| {
                let at = (at, count);
                let at_hand = Coordinates::AtHand;
                job.kernels.set_reach(work, at_hand, at, rest, step);
            });
        }
        let then = self.target.as_ref().map(|&(_, then)| then);
        let then = then.unwrap_or(Directions::Measured);
        let kept = self.kept + kept;
        let wanted = Wanted {
            count,
            ends,
            from,
            run,
            kept,
        };
        let (taking, norms) = (taking.as_ref(), &mut self.norms);
        let kernels = &job.kernels;
        let left = kernels.solve(work, access, &job.rule, taking, &wanted, then, norms);
        if job.grid.line().is_none() {
            kernels.advance(work, left);
        }
    }

    /// The largest l1 of the coordinates whose directions the block has.
    fn largest_l1(&mut self) -> f64 {
        let Some((rect, _)) = self.target.clone() else {
            return 0.0;
        };
        let job = self.job;
        let (rows, cols) = (rect.rows, rect.cols);
        let across = job.grid.line().is_some();
        // The coordinates before those of the block: a vector, or a row.
        let mut largest = 0.0f64;
        if across {
            let before = rows.start as isize - 1;
            for at in (0..cols.len()).step_by(CHUNK) {
                let count = CHUNK.min(cols.len() - at);
                self.work.across(before, at);
                self.read_statistics(before, (cols.start + at) as isize, count);
            }
            job.kernels.end_line(self.work);
        } else {
            let lag = job.grid.lag();
            self.work.along(true);
            self.read_statistics(0, cols.start as isize - lag as isize, lag);
        }
        for row in rows {
            for at in (0..cols.len()).step_by(CHUNK) {
                let count = CHUNK.min(cols.len() - at);
                let col = cols.start + at;
                match across {
                    true => self.work.across(row as isize, at),
                    false => self.work.along(false),
                }
                self.read_statistics(row as isize, col as isize, count);
                let l1 = job.kernels.largest_l1(self.work, count);
                // The first coordinate of a chain has no edge before it; with the
                // one after it instead, it can only be larger.
                let firsts = job.grid.firsts(row, col..col + count);
                largest = firsts.fold(largest.max(l1), |largest, at| {
                    largest.max(job.kernels.l1_of_first(self.work, at))
                });
                if !across {
                    job.kernels.advance(self.work, count);
                }
            }
            job.kernels.end_line(self.work);
        }
        largest
    }

    /// The diagonal and the first sub-diagonal of coordinates from a column of a
    /// row on come into the chunk.
    fn read_statistics(&mut self, row: isize, col: isize, count: usize) {
        let planes = DIAGONAL..DIAGONAL + 1 + self.job.grid.band().min(1);
        let plain = |_| Reading::Times(1.0);
        self.read_planes(row, col..col + count as isize, 0, planes, plain);
    }
}

/// How many elements ahead memory is asked for: the next rows, where it is visited in short runs
/// of each. Runs of a panel take less time than memory does.
pub(super) fn ahead(grid: &Grid) -> usize {
    let row = grid.shape().1;
    match grid.line() {
        _ if grid.is_pooled() => 2 * row,
        Some(_) => row,
        None => AHEAD,
    }
}
