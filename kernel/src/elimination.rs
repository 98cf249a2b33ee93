//! The elimination of a window of statistics: where its factors are.

use std::mem::MaybeUninit;

use super::simd::{Vector, LANES};

/// The widest band with loops of its own.
pub(crate) const COMMON_BAND: usize = 4;

/// Stands for a band that is known only when it runs.
pub(crate) const ANY_BAND: usize = COMMON_BAND + 1;

/// Vectors of memory that the elimination of such a band needs.
pub(crate) const fn vectors(band: usize) -> usize {
    (2 * band + 1) * band
}

/// The factors of a window, tables of `band` rows: the unit lower triangle, the same
/// times its columns' pivots, and `psi` in one row. They are in registers, as far as there
/// are any, or for any band in memory, since stacks may be small. Written before they are
/// read, for every vector anew.
pub(crate) struct Elimination<'k, V: Vector, const BAND: usize> {
    pub(crate) known: &'k mut MaybeUninit<[[[V; BAND]; BAND]; 3]>,
    pub(crate) any: *mut [V::Scalar; LANES],
    pub(crate) band: usize,
    pub(crate) isa: V::Isa,
}

pub(crate) const PSI: usize = 0;
pub(crate) const LOWER: usize = 1;
pub(crate) const TIMES_PIVOT: usize = 2;

impl<V: Vector, const BAND: usize> Elimination<'_, V, BAND> {
    /// Tables follow one another in memory, that of one row first.
    #[inline(always)]
    fn at(&self, table: usize, row: usize, column: usize) -> *mut [V::Scalar; LANES] {
        let rows = if table == PSI {
            0
        } else {
            1 + (table - 1) * self.band
        };
        self.any.wrapping_add((rows + row) * self.band + column)
    }

    /// An entry of a table.
    ///
    /// # Safety
    /// It has been set; row and column are below the band.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, table: usize, row: usize, column: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            match BAND {
                ANY_BAND => V::load(self.isa, &*self.at(table, row, column)),
                _ => (*self.known.as_ptr())[table][row][column],
            }
        }
    }

    /// Sets an entry of a table.
    ///
    /// # Safety
    /// Row and column are below the band.
    #[inline(always)]
    pub(crate) unsafe fn set(&mut self, table: usize, row: usize, column: usize, x: V) {
        // SAFETY: the caller's promise.
        unsafe {
            match BAND {
                ANY_BAND => x.store(&mut *self.at(table, row, column)),
                _ => (*self.known.as_mut_ptr())[table][row][column] = x,
            }
        }
    }
}
