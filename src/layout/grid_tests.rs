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
    &[33, 17],
    &[130, 20],
    &[3, 3, 4, 5],
    &[2, 1, 300],
    &[70, 2, 3, 2],
];
const LAYOUTS: [Chains; 4] = [
    Chains::RowMajor,
    Chains::ColumnMajor,
    Chains::Rows,
    Chains::Columns,
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

    /// A rectangle's span, with the neighbours before and behind.
    fn surroundings(&self, rect: &Rect) -> Range<isize> {
        let (span, band) = (self.grid.span(rect), self.grid.band() as isize);
        span.start - band..span.end + band
    }

    /// Memory indices by packed position.
    fn packed(&self, rect: &Rect) -> HashMap<isize, Option<usize>> {
        self.packed_at(rect, self.surroundings(rect))
    }

    fn packed_at(&self, rect: &Rect, span: Range<isize>) -> HashMap<isize, Option<usize>> {
        let mut packed = HashMap::new();
        let mut last = isize::MIN;
        self.grid.pieces(rect, span, |piece: Piece| {
            assert!(piece.at > last, "{}: out of order", self.name);
            last = piece.at;
            for i in 0..piece.len {
                let index = piece.run.map(|run| self.index(run, i));
                let before = packed.insert(piece.at + i as isize, index);
                assert_eq!(before, None, "{}: packed twice", self.name);
            }
        });
        packed
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
                    let needed = case.packed(&case.grid.directions(block));
                    let all = needed.into_values().flatten().all(|i| ready[i]);
                    assert!(all, "{} tile {tile:?} block {block}", case.name);
                }
            }
        }
    });
}

#[test]
fn packed_neighbours_are_the_neighbours_of_the_chain() {
    for_each_case(|case| {
        let band = case.grid.band() as isize;
        for block in 0..case.grid.blocks() {
            let rect = case.grid.directions(block);
            let (stride, core) = case.grid.packed(&rect);
            let packed = case.packed(&rect);
            let (largest_stride, largest_core, lead) = case.grid.largest_packed();
            assert!(stride <= largest_stride && core <= largest_core);
            let (target, state) = (case.grid.span(&rect), case.grid.statistics(block));
            let ahead = case.grid.span(&state).end - target.end;
            assert!(ahead * stride as isize <= lead as isize, "{}", case.name);
            for (at, run) in case.grid.runs(&rect) {
                for i in 0..run.len {
                    let (at, index) = ((at + i) as isize, case.index(run, i));
                    assert_eq!(packed[&at], Some(index), "{}", case.name);
                    for k in -band..=band {
                        let there = packed[&(at + k * stride as isize)];
                        let expected = case.neighbour.get(&(index, k)).copied();
                        // Broken chains along memory are packed as they lie.
                        if !case.name.contains("Rows") || expected.is_some() {
                            assert_eq!(there, expected, "{} {index} {k}", case.name);
                        }
                    }
                }
            }
        }
    });
}

/// How many coordinates follow in the chain, by packed position.
fn reach(grid: &Grid, rect: &Rect, span: &Range<isize>) -> HashMap<isize, usize> {
    let mut reach = HashMap::new();
    grid.reach(rect, span, |at, count, rest, step| {
        for i in 0..count {
            reach.insert(at + i as isize, (count - 1 - i) * step + rest);
        }
    });
    reach
}

#[test]
fn gradients_behind_are_those_of_the_chain_or_out_of_reach() {
    for_each_case(|case| {
        let band = case.grid.band();
        for block in 0..case.grid.blocks() {
            let rect = case.grid.statistics(block);
            let span = case.grid.span(&rect);
            let (stride, _) = case.grid.packed(&rect);
            let packed = case.packed_at(&rect, span.start..span.end + band as isize);
            let ends = case.grid.ends(&rect, &span);
            let looks = |at: isize| match ends {
                Ends::None => false,
                Ends::From(first) => span.start + at.div_euclid(stride as isize) >= first,
                Ends::Anywhere => true,
            };
            let reach = reach(&case.grid, &rect, &span);
            for (at, run) in case.grid.runs(&rect) {
                for i in 0..run.len {
                    let (at, index) = ((at + i) as isize, case.index(run, i));
                    for k in 1..=band {
                        let what = format!("{} {index} {k}", case.name);
                        let expected = case.neighbour.get(&(index, k as isize)).copied();
                        let there = packed[&(at + (k * stride) as isize)];
                        if expected.is_some() {
                            assert_eq!(there, expected, "{what}");
                            assert!(ends == Ends::None || reach[&at] >= k, "{what}");
                        } else {
                            assert!(looks(at) && reach[&at] < k, "{what}");
                            assert!(ends == Ends::Anywhere || there.is_none(), "{what}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn reach_counts_what_follows_in_the_chain() {
    for_each_case(|case| {
        if case.grid.band() == 0 {
            return; // Nobody asks, and chains are not followed.
        }
        for block in 0..case.grid.blocks() {
            let rect = case.grid.directions(block);
            let Range { start, end } = case.surroundings(&rect);
            let span = start..end - case.grid.band() as isize;
            let reach = reach(&case.grid, &rect, &span);
            for (at, index) in case.packed_at(&rect, span) {
                if let Some(index) = index {
                    let follow = case.chain_end[index].min(MAX_BAND);
                    assert_eq!(reach[&at].min(MAX_BAND), follow, "{}", case.name);
                }
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
            let (_, positions) = case.grid.packed(&case.grid.directions(block));
            assert_eq!(kept.start, end, "{}", case.name);
            assert_eq!(kept.len(), positions.next_multiple_of(PITCH));
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
            let packed = case.packed(&rect);
            found.extend(case.grid.firsts(&rect).map(|at| packed[&(at as isize)]));
        }
        let mut found: Vec<usize> = found.into_iter().flatten().collect();
        found.sort_unstable();
        let mut expected = case.firsts.clone();
        expected.sort_unstable();
        assert_eq!(found, expected, "{}", case.name);
    });
}
