//! The grid against chains that are written out as lists.

use std::collections::HashMap;

use super::*;
use crate::oracle::chains;

/// Shapes that have one block and several, lines wider and narrower than a
/// strip, and columns whose order is not that of memory.
const SHAPES: &[&[usize]] = &[
    &[],
    &[1],
    &[5],
    &[2049],
    &[4112],
    &[3, 5],
    &[1, 40],
    &[40, 1],
    &[7, 300],
    &[300, 7],
    &[1300, 7],
    &[33, 17],
    &[130, 20],
    &[3, 3, 4, 5],
    &[2, 1, 300],
    &[70, 2, 3, 2],
];
const LAYOUTS: [Chains; 4] = [
    Chains::Contiguous,
    Chains::Strided,
    Chains::ContiguousLines,
    Chains::StridedLines,
];

/// A tensor's grid, with the next and the previous coordinate of each.
struct Case {
    name: String,
    grid: Grid,
    neighbour: HashMap<(usize, isize), usize>,
    chain_end: Vec<usize>,
    firsts: Vec<usize>,
}

fn for_each_case(check: impl Fn(&Case)) {
    for dims in SHAPES {
        for layout in LAYOUTS {
            for band in [0, 1, 2, 5, 16] {
                let spec = TensorSpec::new("w", dims).with_chains(layout);
                let chains = chains(dims, layout);
                let mut neighbour = HashMap::new();
                let mut chain_end = vec![0; spec.len()];
                for chain in &chains {
                    for (i, &from) in chain.iter().enumerate() {
                        chain_end[from] = chain.len() - 1 - i;
                        for k in -(band as isize)..=band as isize {
                            if let Some(&to) = i.checked_add_signed(k).and_then(|j| chain.get(j)) {
                                neighbour.insert((from, k), to);
                            }
                        }
                    }
                }
                check(&Case {
                    name: format!("{dims:?} {layout:?} band {band}"),
                    grid: Grid::new(&spec, band),
                    neighbour,
                    chain_end,
                    firsts: chains.iter().map(|chain| chain[0]).collect(),
                });
            }
        }
    }
}

impl Case {
    fn len(&self) -> usize {
        let (rows, cols) = self.grid.shape();
        rows * cols
    }

    fn tiles(&self, longest: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.grid.tiles(longest)).map(move |i| self.grid.tile(i, longest))
    }

    fn index(&self, run: Run, i: usize) -> usize {
        assert!(i < run.len);
        run.row * self.grid.shape().1 + run.col + i
    }

    fn indices(&self, rect: &Rect) -> Vec<usize> {
        let cols = self.grid.shape().1;
        let cell = |row| rect.cols.clone().map(move |col| row * cols + col);
        rect.rows.clone().flat_map(cell).collect()
    }

    /// Where a rectangle is along its chains' way: its columns where they run along
    /// memory, otherwise its rows.
    fn span(&self, rect: &Rect) -> Range<isize> {
        let range = match self.grid.line() {
            None => &rect.cols,
            Some(_) => &rect.rows,
        };
        range.start as isize..range.end as isize
    }

    /// The rows and columns of a rectangle, with so many more before and behind along
    /// its chains' way.
    fn surroundings(&self, rect: &Rect, before: isize, behind: isize) -> [Range<isize>; 2] {
        let cols = rect.cols.start as isize..rect.cols.end as isize;
        let span = self.span(rect);
        let span = span.start - before..span.end + behind;
        match self.grid.line() {
            None => [0..1, span],
            Some(_) => [span, cols],
        }
    }

    /// Memory indices of what chains visit in some rows and columns, for the directions of a
    /// block.
    fn visited(
        &self,
        block: usize,
        [rows, cols]: [Range<isize>; 2],
    ) -> HashMap<(isize, isize), Option<usize>> {
        let mut visited = HashMap::new();
        let within = self.grid.within(block);
        for row in rows {
            let mut next = 0;
            self.grid
                .pieces(row, cols.clone(), &within, |piece: Piece| {
                    assert_eq!(piece.at, next, "{}: out of order", self.name);
                    next += piece.len;
                    for i in 0..piece.len {
                        let index = piece.run.map(|run| self.index(run, i));
                        let at = (row, cols.start + (piece.at + i) as isize);
                        assert_eq!(visited.insert(at, index), None, "{}", self.name);
                    }
                });
            assert_eq!(next, cols.len(), "{}", self.name);
        }
        visited
    }

    /// The `k`-th place further along a chain's way.
    fn further(&self, (row, col): (isize, isize), k: isize) -> (isize, isize) {
        match self.grid.line() {
            None => (row, col + k),
            Some(_) => (row + k, col),
        }
    }
}

#[test]
fn blocks_cover_every_coordinate_once() {
    for_each_case(|case| {
        for rect in [Grid::statistics, Grid::directions] {
            let mut seen = vec![0; case.len()];
            for block in 0..case.grid.blocks() {
                for i in case.indices(&rect(&case.grid, block)) {
                    seen[i] += 1;
                }
            }
            assert!(seen.iter().all(|&n| n == 1), "{}", case.name);
        }
    });
}

#[test]
fn tiles_cover_every_block_once_and_are_rectangles() {
    for_each_case(|case| {
        for longest in [1, 2, 100] {
            let blocks: Vec<usize> = case.tiles(longest).flatten().collect();
            let all: Vec<usize> = (0..case.grid.blocks()).collect();
            assert_eq!(blocks, all, "{}", case.name);
            for tile in case.tiles(longest) {
                let (first, last) = (tile.start, tile.end - 1);
                for rect in [Grid::statistics, Grid::directions] {
                    let (a, b) = (rect(&case.grid, first), rect(&case.grid, last));
                    let whole = Rect {
                        rows: a.rows.start..b.rows.end,
                        cols: a.cols.start..b.cols.end,
                    };
                    let parts = tile
                        .clone()
                        .map(|i| case.indices(&rect(&case.grid, i)).len());
                    let count = case.indices(&whole).len();
                    assert_eq!(count, parts.sum::<usize>(), "{}", case.name);
                }
            }
        }
    });
}

#[test]
fn directions_that_do_not_wait_find_all_they_need_inside_the_tile() {
    for_each_case(|case| {
        for longest in [1, 2, 3, 100] {
            let waits = |tile: Range<usize>| tile.clone().any(|b| case.grid.waits(&tile, b));
            let any = case.tiles(longest).any(waits);
            assert_eq!(any, case.grid.any_waits(longest), "{}", case.name);
            for tile in case.tiles(longest) {
                let mut ready = vec![false; case.len()];
                for block in tile.clone() {
                    for i in case.indices(&case.grid.statistics(block)) {
                        ready[i] = true;
                    }
                    if case.grid.waits(&tile, block) {
                        continue;
                    }
                    let band = case.grid.band() as isize;
                    let rect = case.grid.directions(block);
                    let needed = case.visited(block, case.surroundings(&rect, band, band));
                    let all = needed.into_values().flatten().all(|i| ready[i]);
                    assert!(all, "{} tile {tile:?} block {block}", case.name);
                }
            }
        }
    });
}

#[test]
fn neighbours_are_the_neighbours_of_the_chain() {
    for_each_case(|case| {
        let band = case.grid.band() as isize;
        for block in 0..case.grid.blocks() {
            let rect = case.grid.directions(block);
            let visited = case.visited(block, case.surroundings(&rect, band, band));
            let inner = case.visited(block, case.surroundings(&rect, 0, 0));
            for (&at, index) in &inner {
                let index = index.expect("a rectangle has coordinates that exist");
                for k in -band..=band {
                    let there = visited[&case.further(at, k)];
                    let expected = case.neighbour.get(&(index, k)).copied();
                    // Broken chains along memory are visited as they lie.
                    if !case.name.contains("ContiguousLines") || expected.is_some() {
                        assert_eq!(there, expected, "{} {index} {k}", case.name);
                    }
                }
            }
        }
    });
}

#[test]
fn neighbours_at_a_constant_step_are_those_of_the_chain() {
    for_each_case(|case| {
        for block in 0..case.grid.blocks() {
            for (_, run) in case.grid.runs(&case.grid.statistics(block)) {
                let Some(step) = case.grid.neighbour_step(run) else {
                    continue;
                };
                for (i, k) in (0..run.len).flat_map(|i| (1..=case.grid.band()).map(move |k| (i, k)))
                {
                    let index = case.index(run, i);
                    let expected = case.neighbour.get(&(index, k as isize));
                    assert!(
                        expected.is_none_or(|&to| to == index + k * step),
                        "{}",
                        case.name
                    );
                    assert!(index + k * step < case.len(), "{}", case.name);
                }
            }
        }
    });
}

/// How many coordinates follow in the chain, by column.
fn reach(grid: &Grid, row: isize, cols: Range<isize>) -> HashMap<isize, usize> {
    let mut reach = HashMap::new();
    grid.reach(row, cols.clone(), |at, count, rest, step| {
        for i in 0..count {
            reach.insert(
                cols.start + (at + i) as isize,
                (count - 1 - i) * step + rest,
            );
        }
    });
    reach
}

#[test]
fn ends_and_reach_tell_where_neighbours_are_missing() {
    for_each_case(|case| {
        let band = case.grid.band();
        if band == 0 {
            return; // Nobody asks, and chains are not followed.
        }
        for block in 0..case.grid.blocks() {
            let rect = case.grid.directions(block);
            let [rows, cols] = case.surroundings(&rect, band as isize, 0);
            let visited = case.visited(block, [rows.clone(), cols.clone()]);
            for row in rows {
                let reach = reach(&case.grid, row, cols.clone());
                let mut missing = false;
                for col in cols.clone() {
                    let Some(index) = visited[&(row, col)] else {
                        continue;
                    };
                    let follow = case.chain_end[index].min(MAX_BAND);
                    assert_eq!(reach[&col].min(MAX_BAND), follow, "{}", case.name);
                    missing |= follow < band;
                }
                let ends = case.grid.ends(row, cols.clone());
                assert!(ends || !missing, "{} row {row}", case.name);
            }
        }
    });
}

#[test]
fn each_direction_is_kept_in_a_place_of_its_own() {
    for_each_case(|case| {
        let mut end = 0;
        for block in 0..case.grid.blocks() {
            let kept = case.grid.kept(block);
            let rect = case.grid.directions(block);
            let positions = rect.rows.len() * case.grid.pitch(rect.cols.len());
            assert_eq!(kept.start, end, "{}", case.name);
            assert_eq!(kept.len(), positions.next_multiple_of(LANES));
            end = kept.end;
        }
        assert_eq!(end, case.grid.all_kept(), "{}", case.name);
    });
}

#[test]
fn firsts_are_the_first_coordinates_of_chains() {
    for_each_case(|case| {
        if case.grid.band() == 0 {
            return; // A first has no edge then, like any other.
        }
        let mut found = Vec::new();
        for block in 0..case.grid.blocks() {
            let rect = case.grid.directions(block);
            for row in rect.rows.clone() {
                let first = row * case.grid.shape().1 + rect.cols.start;
                let firsts = case.grid.firsts(row, rect.cols.clone());
                found.extend(firsts.map(|at| first + at));
            }
        }
        found.sort_unstable();
        let mut expected = case.firsts.clone();
        expected.sort_unstable();
        assert_eq!(found, expected, "{}", case.name);
    });
}
