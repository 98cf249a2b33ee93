//! Once over the tiles of all tensors, by all threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use sonew_kernel::{fence, Access, Memory, PooledChains, PooledSums, Rect, Workspace};

use super::pool::{Items, Workers};
use crate::error::Result;
use crate::layout::Grid;
use crate::memory::{list, OF_TENSORS};

/// The tiles of all tensors: what threads take, one at a time. Not a list but
/// a way to count, so that it needs no memory that grows with the tensors.
pub(crate) struct Tiles {
    /// The longest tile, in blocks.
    longest: usize,
    /// For each tensor the number of tiles up to its last.
    ends: Vec<usize>,
    /// Whether any tile has blocks whose directions wait for other tiles.
    any_waits: bool,
}

/// A range of blocks of one tensor, all in one strip.
struct Tile {
    tensor: usize,
    blocks: Range<usize>,
}

impl Tiles {
    pub(crate) fn new<'a>(
        grids: impl Iterator<Item = &'a Grid> + Clone,
        longest: usize,
    ) -> Result<Self> {
        let mut end = 0;
        let ends = grids.clone().map(|grid| {
            end += grid.tiles(longest);
            end
        });
        Ok(Tiles {
            longest,
            ends: list(ends, OF_TENSORS)?,
            any_waits: grids.into_iter().any(|grid| grid.any_waits(longest)),
        })
    }

    fn get<'a>(&self, i: usize, grid: impl Fn(usize) -> &'a Grid) -> Option<Tile> {
        let tensor = self.ends.partition_point(|&end| end <= i);
        let end = self.ends.get(tensor)?;
        let grid = grid(tensor);
        let first = end - grid.tiles(self.longest);
        Some(Tile {
            tensor,
            blocks: grid.tile(i - first, self.longest),
        })
    }
}

/// What a sweep visits, and what its visitors may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// Every block. State is written, inside the tile; directions that need
    /// more than that [`Visit::waits`].
    Tiles,
    /// The blocks whose directions waited. State is read only, all of it.
    Waiting,
    /// Every block. State is read only, all of it.
    Whole,
}

/// A block to be worked on.
pub(crate) struct Visit<'a, 'w> {
    pub tensor: usize,
    pub block: usize,
    /// The block's directions need state that is not ready yet.
    pub waits: bool,
    pub access: &'a mut Access<'w>,
    pub work: &'a mut Workspace,
}

/// Who sweeps: the threads, and a workspace for each of them.
pub(crate) struct Team<'a> {
    pub workers: &'a Workers,
    pub workspaces: &'a mut [Workspace],
}

impl Team<'_> {
    /// Visits the blocks of every tile whose tensor takes part (has memory); `grid` and
    /// `memory` are those of a tensor. Which thread visits which tile is left to
    /// chance; within a tile, blocks come in order. The calling thread is in the default
    /// floating-point mode.
    pub(crate) fn sweep<'a>(
        &mut self,
        sweep: Sweep,
        tiles: &Tiles,
        grid: impl Fn(usize) -> &'a Grid + Sync,
        memory: impl Fn(usize) -> Option<&'a Memory<'a>> + Sync,
        visit: &(impl Fn(Visit<'_, '_>) + Sync),
    ) {
        if sweep == Sweep::Waiting && !tiles.any_waits {
            return;
        }
        let next = Next::new(self.workspaces.len() == 1);
        self.workers.run(self.workspaces, &|work: &mut Workspace| {
            while let Some(tile) = tiles.get(next.take(), &grid) {
                if let Some(memory) = memory(tile.tensor) {
                    visit_tile(sweep, &tile, grid(tile.tensor), memory, work, visit);
                }
            }
            fence();
        });
    }

    /// Does something for each tensor, to which an item of each list belongs. Which thread
    /// does it for which tensor is left to chance; one does it for all where it takes so
    /// little that others are not worth waking.
    pub(crate) fn each<A: Send, B: Send>(
        &mut self,
        takes_little: bool,
        first: &mut [A],
        second: &mut [B],
        work: &(impl Fn(usize, &mut A, &mut B) + Sync),
    ) {
        let threads = if takes_little {
            1
        } else {
            self.workspaces.len()
        };
        let next = Next::new(threads == 1);
        let (count, first, second) = (first.len(), Items::of(first), Items::of(second));
        self.workers
            .run(&mut self.workspaces[..threads], &|_: &mut Workspace| loop {
                let i = next.take();
                if i >= count {
                    break;
                }
                // SAFETY: both lists are borrowed exclusively, and each number is taken once.
                unsafe { work(i, first.get(i), second.get(i)) };
            });
    }
}

/// Hands out numbers, each once.
struct Next {
    number: AtomicUsize,
    is_for_one: bool,
}

impl Next {
    fn new(is_for_one: bool) -> Self {
        let number = AtomicUsize::new(0);
        Next { number, is_for_one }
    }

    fn take(&self) -> usize {
        match self.is_for_one {
            false => self.number.fetch_add(1, Ordering::Relaxed),
            // For one thread this is the same, and for small steps it is much faster.
            true => {
                let i = self.number.load(Ordering::Relaxed);
                self.number.store(i + 1, Ordering::Relaxed);
                i
            }
        }
    }
}

fn visit_tile(
    sweep: Sweep,
    tile: &Tile,
    grid: &Grid,
    memory: &Memory<'_>,
    work: &mut Workspace,
    visit: &impl Fn(Visit<'_, '_>),
) {
    let whole = |rect: &dyn Fn(usize) -> Rect| {
        let (first, last) = first_and_last(&tile.blocks, rect);
        Rect {
            rows: first.rows.start..last.rows.end,
            cols: first.cols.start..last.cols.end,
        }
    };
    let kept = |blocks: &Range<usize>| {
        let (first, last) = first_and_last(blocks, &|block| grid.kept(block));
        first.start..last.end
    };
    let mut visit_blocks = |state: Option<Rect>, target: Rect, blocks: Range<usize>, any| {
        // SAFETY: `Team::sweep` hands out each tile once, to one thread, and
        // the step has the only borrow of the buffers, whose lengths were checked. In `Tiles` each access touches
        // state and target inside the statistics of its tile, and those of
        // different tiles are disjoint; in the other sweeps no state is
        // written, and the directions of different blocks are disjoint, as
        // are the places where these are kept. All are properties of `Grid`,
        // tested there.
        let mut access = unsafe { Access::new(memory, state, target, kept(&blocks)) };
        for block in blocks {
            let waits = grid.waits(&tile.blocks, block);
            if any || waits {
                let (access, work) = (&mut access, &mut *work);
                visit(Visit {
                    tensor: tile.tensor,
                    block,
                    waits,
                    access,
                    work,
                });
            }
        }
    };
    match sweep {
        Sweep::Tiles => {
            let rect = whole(&|block| grid.statistics(block));
            visit_blocks(Some(rect.clone()), rect, tile.blocks.clone(), true);
        }
        Sweep::Waiting => {
            for block in tile.blocks.clone() {
                visit_blocks(None, grid.directions(block), block..block + 1, false);
            }
        }
        Sweep::Whole => {
            let rect = whole(&|block| grid.directions(block));
            visit_blocks(None, rect, tile.blocks.clone(), true);
        }
    }
}

/// Something of the first of some blocks, and of the last; small tensors have only one.
fn first_and_last<T: Clone>(blocks: &Range<usize>, of: &dyn Fn(usize) -> T) -> (T, T) {
    let first = of(blocks.start);
    let last = match blocks.len() {
        1 => first.clone(),
        _ => of(blocks.end - 1),
    };
    (first, last)
}

/// The pooled sums of a tensor that has them.
pub(crate) fn pooled_sums<'m>(
    memory: &'m mut Memory<'_>,
    chains: PooledChains,
    is_lagged: bool,
) -> PooledSums<'m> {
    // SAFETY: the step has the only borrow of the buffers, no sweep is under way while their
    // memory is borrowed exclusively, and tiles do not reach this plane.
    let (plane, before) = unsafe { memory.pooled_sums() }.expect("its chains are pooled");
    PooledSums {
        chains,
        is_lagged,
        plane,
        before,
    }
}
