//! Reads the arrays of an open file, whole or in chunks, as they are or converted, and
//! compares their checksums.

use std::sync::{Mutex, PoisonError};

use super::files::SourceFile;
use super::locate::StoredArray;
use super::{array_name, Checkpoint, SavedTensor};
use crate::dtype::{convert, Dtype, Elements, ElementsMut, Stochastic};
use crate::error::{Error, Result};
use crate::layout::array_len;
use crate::memory::AlignedBytes;
use crate::signals::Blocked;

/// Arrays are read, and their checksums computed, in chunks of this size, which
/// fits into the processor's cache.
const CHUNK: usize = 1 << 18;

/// Size of the pieces that arrays are cut into for several threads.
const PIECE: usize = 16 << 20;

impl Checkpoint<'_> {
    /// The type of an array.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`], [`Error::PlaneMissing`].
    pub fn dtype(&self, tensor: usize, plane: &str) -> Result<Dtype> {
        Ok(self.find(tensor, plane)?.dtype)
    }

    /// Reads one array and compares its checksum, if it has one. `progress` is called with
    /// the number of bytes read since it was called last.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Io`], [`Error::UnknownTensor`],
    /// [`Error::PlaneMissing`].
    pub fn check(&self, tensor: usize, plane: &str, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.read_in_chunks(tensor, plane, |elements, _| {
            progress(elements.bytes().len() as u64);
            Ok(())
        })
    }

    /// The checksum of an array: the one that the file has, or that of what is there.
    pub(super) fn checksum(&self, tensor: usize, plane: &str) -> Result<u32> {
        if let Some(crc) = self.find(tensor, plane)?.crc {
            return Ok(crc);
        }
        let mut sum = crc32fast::Hasher::new();
        self.read_in_chunks(tensor, plane, |elements, _| {
            sum.update(elements.bytes());
            Ok(())
        })?;
        Ok(sum.finalize())
    }

    /// Reads one array in chunks: its elements, and the index of the first of them. At
    /// the end compares its checksum, if it has one.
    pub(super) fn read_in_chunks(
        &self,
        tensor: usize,
        plane: &str,
        mut chunk: impl FnMut(Elements<'_>, usize) -> Result<()>,
    ) -> Result<()> {
        let mut reader = self.reader(tensor, plane)?;
        let mut buffer = reader.buffer()?;
        while let Some((elements, first)) = reader.next(&mut buffer)? {
            chunk(elements, first)?;
        }
        reader.finish(&mut buffer)
    }

    /// Reads one array piece by piece.
    pub(super) fn reader(&self, tensor: usize, plane: &str) -> Result<ArrayReader<'_>> {
        Ok(ArrayReader {
            file: self,
            tensor,
            array: self.find(tensor, plane)?,
            done: 0,
            sum: crc32fast::Hasher::new(),
        })
    }

    /// Copies one array, of this type, to a buffer of its tensor's length, and compares
    /// its checksum, if it has one.
    ///
    /// # Errors
    /// Nothing has been written then. [`Error::Checksum`], [`Error::Io`],
    /// [`Error::UnknownTensor`], [`Error::PlaneMissing`], [`Error::WrongDtype`],
    /// [`Error::WrongLength`].
    pub fn read_array(&self, tensor: usize, plane: &str, mut to: ElementsMut<'_>) -> Result<()> {
        let dtype = self.dtype(tensor, plane)?;
        let spec = &self.header.tensors[tensor].spec;
        if to.dtype() != dtype {
            return Err(Error::WrongDtype {
                tensor: spec.name.clone(),
                argument: plane.to_owned(),
                dtype: to.dtype(),
                expected: dtype,
            });
        }
        let bytes = to.bytes_mut();
        let what = || format!("{plane} of tensor \"{}\"", spec.name);
        let mut read = AlignedBytes::zeroed(bytes.len(), what)?;
        let wanted = Wanted {
            tensor,
            plane,
            dtype,
            rounding: None,
            dst: &mut read,
        };
        self.read(vec![wanted], 1)?;
        bytes.copy_from_slice(&read);
        Ok(())
    }

    /// Fills buffers with arrays, on up to `threads` threads. If this fails, the
    /// buffers may have been written.
    pub(crate) fn read(&self, wanted: Vec<Wanted<'_>>, threads: usize) -> Result<()> {
        let mut arrays = Vec::with_capacity(wanted.len());
        let mut pieces = Vec::new();
        for wanted in wanted {
            let (tensor, size) = (wanted.tensor, wanted.dtype.size());
            let array = self.find(tensor, wanted.plane)?;
            let spec = &self.header.tensors[tensor].spec;
            let expected = array_len(&self.header.options, spec, wanted.plane);
            if wanted.dst.len() != expected * size {
                return Err(Error::WrongLength {
                    tensor: spec.name.clone(),
                    argument: wanted.plane.to_owned(),
                    length: wanted.dst.len() / size,
                    expected,
                });
            }
            for (index, dst) in wanted.dst.chunks_mut(PIECE).enumerate() {
                pieces.push(Piece {
                    array: arrays.len(),
                    stored: array,
                    first: index * (PIECE / size),
                    dtype: wanted.dtype,
                    rounding: wanted.rounding,
                    dst,
                    sum: crc32fast::Hasher::new(),
                    too_large: None,
                });
            }
            arrays.push((tensor, array));
        }
        read_pieces(&self.file, &mut pieces, threads)?;

        let mut sums = vec![crc32fast::Hasher::new(); arrays.len()];
        for piece in &pieces {
            sums[piece.array].combine(&piece.sum);
        }
        for ((tensor, array), sum) in arrays.iter().zip(sums) {
            self.compare(*tensor, array, sum.finalize())?;
        }
        match pieces
            .iter()
            .find_map(|p| p.too_large.map(|x| (p.array, x)))
        {
            None => Ok(()),
            Some((array, number)) => {
                let (tensor, array) = arrays[array];
                Err(too_large(&self.header.tensors[tensor], &array.name, number))
            }
        }
    }

    fn find(&self, tensor: usize, plane: &str) -> Result<&StoredArray> {
        let count = self.arrays.first.len();
        let arrays = self.arrays.first.get(tensor).ok_or(Error::UnknownTensor {
            index: tensor,
            count,
        })?;
        let found = arrays.iter().find(|array| *array.name == *plane);
        found.ok_or_else(|| Error::PlaneMissing {
            tensor: self.header.tensors[tensor].spec.name.clone(),
            plane: plane.to_owned(),
            file: "file",
        })
    }

    fn compare(&self, tensor: usize, array: &StoredArray, crc: u32) -> Result<()> {
        if array.crc.is_none_or(|expected| expected == crc) {
            return Ok(());
        }
        let name = array_name(&self.header.tensors[tensor], &array.name);
        Err(self.damaged(format!("\"{name}\"")))
    }
}

/// Reads an array from its first element to its last, and at the end compares its
/// checksum, if it has one.
pub(super) struct ArrayReader<'a> {
    file: &'a Checkpoint<'a>,
    tensor: usize,
    array: &'a StoredArray,
    /// Elements so far.
    done: usize,
    sum: crc32fast::Hasher,
}

impl ArrayReader<'_> {
    /// The type of its elements.
    pub(super) fn dtype(&self) -> Dtype {
        self.array.dtype
    }

    /// Its size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.array.file_range.bytes as usize
    }

    /// The number of its elements.
    fn len(&self) -> usize {
        self.bytes() / self.dtype().size()
    }

    /// A buffer for chunks.
    fn buffer(&self) -> Result<AlignedBytes> {
        AlignedBytes::zeroed(CHUNK.min(self.bytes()), || "reading an array".to_owned())
    }

    /// The next elements, as many as fit into the buffer, and the index of the first of
    /// them; `None` behind the last.
    pub(super) fn next<'b>(
        &mut self,
        buffer: &'b mut [u8],
    ) -> Result<Option<(Elements<'b>, usize)>> {
        let (dtype, first) = (self.dtype(), self.done);
        let count = (self.len() - first).min(buffer.len() / dtype.size());
        if count == 0 {
            return Ok(None);
        }
        let bytes = &mut buffer[..count * dtype.size()];
        let offset = self.array.file_range.offset + (first * dtype.size()) as u64;
        self.file.file.read_at(offset, bytes)?;
        if self.array.crc.is_some() {
            self.sum.update(bytes);
        }
        self.done += count;
        Ok(Some((Elements::from_bytes(dtype, bytes), first)))
    }

    /// Goes on at this element. What lies between is read only for the checksum.
    pub(super) fn skip_to(&mut self, element: usize, buffer: &mut [u8]) -> Result<()> {
        if self.array.crc.is_none() {
            self.done = element;
        }
        while self.done < element {
            let bytes = (element - self.done) * self.dtype().size();
            let length = bytes.min(buffer.len());
            self.next(&mut buffer[..length])?;
        }
        Ok(())
    }

    /// Reads the rest, and compares the checksum.
    pub(super) fn finish(mut self, buffer: &mut [u8]) -> Result<()> {
        self.skip_to(self.len(), buffer)?;
        let sum = std::mem::take(&mut self.sum);
        self.file.compare(self.tensor, self.array, sum.finalize())
    }
}

/// An array that is to be read, and its destination.
pub(crate) struct Wanted<'a> {
    pub(crate) tensor: usize,
    /// The state plane, or [`PARAMETER`](super::PARAMETER).
    pub(crate) plane: &'a str,
    /// The type that its elements are to have. If they have another one in the file,
    /// they are converted, as elements of state.
    pub(crate) dtype: Dtype,
    /// Stochastic rounding of what is converted, and the position of its plane.
    pub(crate) rounding: Option<(Stochastic, usize)>,
    /// Has the size of the array in that type.
    pub(crate) dst: &'a mut [u8],
}

/// A part of an array that is read by one thread.
struct Piece<'a> {
    /// The index of the array.
    array: usize,
    stored: &'a StoredArray,
    /// The index of its first element in the array.
    first: usize,
    dtype: Dtype,
    rounding: Option<(Stochastic, usize)>,
    dst: &'a mut [u8],
    /// Of its bytes in the file.
    sum: crc32fast::Hasher,
    /// The first number that is too large for the type it was converted to.
    too_large: Option<f64>,
}

impl Piece<'_> {
    fn read(&mut self, file: &SourceFile) -> Result<()> {
        let (from, to) = (self.stored.dtype, self.dtype);
        let offset = |first: usize| self.stored.file_range.offset + (first * from.size()) as u64;
        let mut first = self.first;
        if from == to {
            for chunk in self.dst.chunks_mut(CHUNK) {
                file.read_at(offset(first), chunk)?;
                self.sum.update(chunk);
                first += chunk.len() / to.size();
            }
            return Ok(());
        }
        let most = CHUNK / from.size().max(to.size());
        let what = || "converting an array".to_owned();
        let mut read = AlignedBytes::zeroed(most * from.size(), what)?;
        for chunk in self.dst.chunks_mut(most * to.size()) {
            let count = chunk.len() / to.size();
            let read = &mut read[..count * from.size()];
            file.read_at(offset(first), read)?;
            self.sum.update(read);
            let (read, chunk) = (
                Elements::from_bytes(from, read),
                ElementsMut::from_bytes(to, chunk),
            );
            let found = convert(read, chunk, self.rounding, first);
            self.too_large = self.too_large.or(found);
            first += count;
        }
        Ok(())
    }
}

/// The refusal of a number of state that has no place in another type.
pub(super) fn too_large(tensor: &SavedTensor, plane: &str, number: f64) -> Error {
    Error::OutOfRange {
        argument: format!("{plane} of tensor \"{}\"", tensor.spec.name),
        value: number,
        allowed: "in the range of the type that it is converted to",
    }
}

/// Reads pieces on threads that end before this returns. If there are few pieces,
/// only the caller's thread reads.
fn read_pieces(file: &SourceFile, pieces: &mut [Piece<'_>], threads: usize) -> Result<()> {
    let large = pieces.iter().filter(|piece| piece.dst.len() == PIECE);
    let threads = threads.min(large.count()).max(1);
    let left = Mutex::new(pieces.iter_mut());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).try_for_each(|piece| piece.read(file));
    if threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let start = |_| {
            // The name distinguishes the library's own panics from the host's.
            // If the system gives no thread, the others do its work.
            let thread = std::thread::Builder::new().name("sonew-load".to_owned());
            let _blocked = Blocked::now();
            thread.spawn_scoped(scope, work).ok()
        };
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        let mine = work();
        let others = others.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        others.fold(mine, Result::and)
    })
}
