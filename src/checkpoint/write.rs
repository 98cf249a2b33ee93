//! Writes checkpoints, and creates live files.

use std::path::Path;

use super::files::{Access, NewFile};
use super::header::{self, Contents, LENGTH_BYTES, MAX_LENGTH};
use super::json::ArrayInfo;
use super::live::{Copies, Found, Live};
use super::locate::{self, Checked};
use super::record::{self, COMMIT_WORDS, CURRENT, DEVICE, FILE, SETTINGS, SETTINGS_WORDS, SYNCED};
use super::{
    array_name, Array, Header, Settings, ALIGNMENT, FORMAT, MEMORY, PADDING, SECOND, WORD,
};
use crate::error::{Error, Result};
use crate::layout::{array_dims, array_len};
use crate::memory::{check, OF_FILES};

/// Checksums are computed, and arrays written, in chunks of this size, which
/// fits into the processor's cache.
const CHUNK: usize = 1 << 20;

/// Writes a checkpoint that holds `arrays`, in their order: every plane of
/// every tensor, and either every parameter or none.
///
/// The complete file is on disk before it replaces an older one of its name; on
/// an error the older one remains. The bytes are first written to a file whose
/// name has `.sonew-tmp` added.
pub(crate) fn write(path: &Path, header: &Header, arrays: &[Array]) -> Result<()> {
    header.validate()?;
    check_lengths(header, arrays)?;
    write_from(path, header, arrays, |index, sink| {
        let mut chunks = arrays[index].bytes.chunks(CHUNK);
        chunks.try_for_each(|chunk| sink.write(chunk))
    })
}

/// The same with arrays whose bytes `fill` writes, given the position of the array.
pub(super) fn write_from(
    path: &Path,
    header: &Header,
    arrays: &[Array],
    fill: impl FnMut(usize, &mut Sink<'_>) -> Result<()>,
) -> Result<()> {
    written(path, header, arrays, fill)?.commit().map(drop)
}

/// The same, except that the new file does not yet replace the older one.
pub(super) fn written(
    path: &Path,
    header: &Header,
    arrays: &[Array],
    fill: impl FnMut(usize, &mut Sink<'_>) -> Result<()>,
) -> Result<NewFile> {
    let contents = begin(header, arrays, false)?;
    let (start, checked) = encode(path, &contents)?;
    let mut file = NewFile::create(path, checked.end, Access::Read)?;
    put(&mut file, path, contents, start.len(), fill)?;
    Ok(file)
}

/// Writes contents, whose header has this length.
fn put(
    out: &mut dyn Output,
    path: &Path,
    mut contents: Contents,
    header: usize,
    mut fill: impl FnMut(usize, &mut Sink<'_>) -> Result<()>,
) -> Result<()> {
    // The header is written last, because its checksums are known only when the
    // data have been written. Its length does not depend on their values.
    out.seek(header as u64)?;
    for (index, (_, crc)) in contents.checksums.iter_mut().enumerate() {
        let mut sink = Sink::new(out);
        fill(index, &mut sink)?;
        *crc = sink.finish()?;
    }
    out.seek(0)?;
    out.write(&encode(path, &contents)?.0)
}

/// The size in bytes of what [`write`] writes.
pub(crate) fn size_in_memory(header: &Header, arrays: &[Array]) -> Result<usize> {
    let (_, checked) = encode(Path::new(MEMORY), &begin(header, arrays, false)?)?;
    // The arrays are in memory already.
    usize::try_from(checked.end).map_err(|_| Error::OutOfMemory {
        what: "a checkpoint".to_owned(),
        bytes: checked.end.into(),
    })
}

/// [`write`] into memory, of which there is at least that size. Returns the size.
pub(crate) fn write_to_memory(
    bytes: &mut [u8],
    header: &Header,
    arrays: &[Array],
) -> Result<usize> {
    header.validate()?;
    check_lengths(header, arrays)?;
    let path = Path::new(MEMORY);
    let contents = begin(header, arrays, false)?;
    let (start, checked) = encode(path, &contents)?;
    if checked.end > bytes.len() as u64 {
        return Err(Error::TooSmall {
            size: bytes.len(),
            needed: checked.end,
        });
    }
    let mut out = InMemory { bytes, position: 0 };
    put(&mut out, path, contents, start.len(), |index, sink| {
        let mut chunks = arrays[index].bytes.chunks(CHUNK);
        chunks.try_for_each(|chunk| sink.write(chunk))
    })?;
    Ok(checked.end as usize)
}

/// Where a checkpoint is written to.
pub(super) trait Output {
    /// Continues writing at this offset.
    fn seek(&mut self, offset: u64) -> Result<()>;
    /// Writes `bytes` where the last write ended.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Output for NewFile {
    fn seek(&mut self, offset: u64) -> Result<()> {
        NewFile::seek(self, offset)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        NewFile::write(self, bytes)
    }
}

/// Memory that has room for all that is written.
struct InMemory<'a> {
    bytes: &'a mut [u8],
    position: usize,
}

impl Output for InMemory<'_> {
    fn seek(&mut self, offset: u64) -> Result<()> {
        self.position = offset as usize;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.position + bytes.len();
        self.bytes[self.position..end].copy_from_slice(bytes);
        self.position = end;
        Ok(())
    }
}

/// Creates a live file that holds `arrays`, which are every plane of every
/// tensor, and opens it.
pub(crate) fn create_live(
    path: &Path,
    header: &Header,
    arrays: &[Array],
    settings: impl Iterator<Item = Settings>,
) -> Result<(Live, Copies)> {
    Live::check_step(header.step)?;
    for tensor in &header.tensors {
        Live::check_tensor_step(&tensor.spec.name, tensor.step_count)?;
    }
    header.validate()?;
    check_lengths(header, arrays)?;
    let (start, checked) = encode(path, &begin(header, arrays, true)?)?;
    let Checked {
        arrays: located,
        end,
        ..
    } = checked;
    let record = &located.live.as_ref().expect("of a live file").record;

    let mut file = NewFile::create(path, end, Access::Live)?;
    file.allocate(end)?;
    let first = located.first.iter().flatten().next().expect("a plane");
    file.seek(first.file_range.offset)?;
    let mut checksums = Vec::with_capacity(arrays.len());
    for array in arrays {
        let mut sink = Sink::new(&mut file);
        let mut chunks = array.bytes.chunks(CHUNK);
        chunks.try_for_each(|chunk| sink.write(chunk))?;
        checksums.push(u64::from(sink.finish()?));
    }
    let settings: Vec<u64> = settings.flat_map(record::settings_words).collect();
    file.seek(0)?;
    file.write(&start)?;
    let identity = file.identity()?;
    let mut commit = vec![0; COMMIT_WORDS];
    commit[CURRENT] = record::pack(header.step, 0);
    commit[FILE] = identity.file;
    commit[DEVICE] = identity.device;
    let synced = record::synced(
        FIRST_SYNC,
        commit[CURRENT],
        settings.iter().copied(),
        checksums,
    )?;
    for (index, words) in [
        (0, &commit),
        (SETTINGS, &settings),
        (SETTINGS + 1, &settings),
        (SYNCED + record::slot(FIRST_SYNC), &synced),
    ] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.seek(record[index].offset)?;
        file.write(&bytes)?;
    }
    let (file, _) = file.commit()?;
    let found = Found::Synced(FIRST_SYNC);
    Live::new(file, path, end, &located, (header.step, 0), &found)
}

/// The number of the sync in which a live file is created.
const FIRST_SYNC: u64 = 1;

/// Where the bytes of one array are written to, in pieces that fit into the cache.
pub(super) struct Sink<'a> {
    out: &'a mut dyn Output,
    sum: crc32fast::Hasher,
    bytes: usize,
}

impl<'a> Sink<'a> {
    fn new(out: &'a mut dyn Output) -> Self {
        Sink {
            out,
            sum: crc32fast::Hasher::new(),
            bytes: 0,
        }
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.sum.update(piece);
        self.bytes += piece.len();
        self.out.write(piece)
    }

    /// An array of zeros.
    pub(super) fn zeros(&mut self, bytes: usize) -> Result<()> {
        const ZEROS: [u8; 1 << 12] = [0; 1 << 12];
        let mut rest = bytes;
        while rest > 0 {
            let piece = rest.min(ZEROS.len());
            self.write(&ZEROS[..piece])?;
            rest -= piece;
        }
        Ok(())
    }

    /// Writes padding after the array, and returns the checksum of its bytes.
    fn finish(self) -> Result<u32> {
        self.out.write(&[0; ALIGNMENT][..gap(self.bytes)])?;
        Ok(self.sum.finalize())
    }
}

/// Number of bytes from the end of an array to the next multiple of the
/// alignment.
fn gap(bytes: usize) -> usize {
    bytes.wrapping_neg() % ALIGNMENT
}

/// Lays out the arrays that are to be written.
fn begin(header: &Header, arrays: &[Array], live: bool) -> Result<Contents> {
    let contents = lay_out(header, arrays, live, FileLayout::default());
    check(OF_FILES)?;
    Ok(contents)
}

fn check_lengths(header: &Header, arrays: &[Array]) -> Result<()> {
    for array in arrays {
        let count = header.tensors.len();
        let tensor = header.tensors.get(array.tensor);
        let spec = &tensor
            .ok_or(Error::UnknownTensor {
                index: array.tensor,
                count,
            })?
            .spec;
        let expected = array_len(&header.options, spec, array.plane);
        if array.bytes.len() != expected * array.dtype.size() {
            return Err(Error::WrongLength {
                tensor: spec.name.clone(),
                argument: array.plane.to_owned(),
                length: array.bytes.len() / array.dtype.size(),
                expected,
            });
        }
    }
    Ok(())
}

/// The bytes before the data, and what is found when they are read.
fn encode(path: &Path, contents: &Contents) -> Result<(Vec<u8>, Checked)> {
    let internal = |message: String| Error::Internal { message };
    let bytes = header::encode(contents).map_err(|e| internal(e.to_string()))?;
    check(OF_FILES)?;
    let length = (bytes.len() - LENGTH_BYTES) as u64;
    if length > MAX_LENGTH {
        return Err(Error::HeaderLength {
            path: path.to_owned(),
            length,
            limit: MAX_LENGTH,
        });
    }
    // Without this check, an extra or a missing array would be noticed only when
    // the file is loaded.
    let checked = locate::check(path, &bytes).map_err(|error| match error {
        Error::OutOfMemory { .. } => error,
        other => internal(other.to_string()),
    })?;
    let mut expected = contents.header.clone();
    let own = expected.tensors.iter_mut();
    let own = own.filter_map(|tensor| tensor.spec.options.as_deref_mut());
    for options in own.chain([&mut expected.options]) {
        options.threads = checked.header.options.threads;
        options.instruction_set = checked.header.options.instruction_set;
    }
    if checked.header != expected {
        return Err(internal("a header reads back differently".to_owned()));
    }
    check(OF_FILES)?;
    Ok((bytes, checked))
}

/// Arrays that follow each other in a file, with padding after each.
#[derive(Default)]
pub(super) struct FileLayout {
    arrays: Vec<(String, ArrayInfo)>,
    position: u64,
    gaps: usize,
}

impl FileLayout {
    /// Continues behind the arrays of a file, which was laid out behind so many gaps.
    pub(super) fn after(contents: &Contents, gaps: usize) -> Self {
        let filled = |(name, info): &&(String, ArrayInfo)| header::is_padding(name, &info.dtype);
        FileLayout {
            arrays: Vec::new(),
            position: contents
                .arrays
                .last()
                .map_or(0, |(_, info)| info.data_offsets[1]),
            gaps: gaps + contents.arrays.iter().filter(filled).count(),
        }
    }

    /// Gaps so far.
    pub(super) fn gaps(&self) -> usize {
        self.gaps
    }

    fn push(&mut self, name: String, dtype: &str, shape: Vec<usize>, bytes: usize) {
        self.put(name, dtype, shape, bytes);
        let gap = gap(bytes);
        if gap > 0 {
            let name = format!("{PADDING}{}", self.gaps);
            self.put(name, "U8", vec![gap], gap);
            self.gaps += 1;
        }
    }

    fn put(&mut self, name: String, dtype: &str, shape: Vec<usize>, bytes: usize) {
        let end = self.position + bytes as u64;
        let info = ArrayInfo {
            dtype: dtype.to_owned(),
            shape,
            data_offsets: [self.position, end],
        };
        self.arrays.push((name, info));
        self.position = end;
    }
}

/// Gives every array its offset in the file, behind those of `layout`. The checksums
/// are filled in later.
pub(super) fn lay_out(
    header: &Header,
    arrays: &[Array],
    live: bool,
    mut layout: FileLayout,
) -> Contents {
    let mut checksums = Vec::new();
    if live {
        for shape in record::shapes(FORMAT, SETTINGS_WORDS, header.tensors.len(), arrays.len()) {
            let bytes = shape.words() * WORD;
            layout.push(shape.name.to_owned(), shape.dtype, shape.dims, bytes);
        }
    }
    let copies: &[&str] = if live { &["", SECOND] } else { &[""] };
    for suffix in copies {
        for array in arrays {
            let tensor = &header.tensors[array.tensor];
            let name = array_name(tensor, array.plane) + suffix;
            if !live {
                checksums.push((name.clone(), 0));
            }
            let dims = array_dims(&header.options, &tensor.spec, array.plane);
            let bytes = dims.iter().product::<usize>() * array.dtype.size();
            layout.push(name, array.dtype.name(), dims.into_owned(), bytes);
        }
    }
    Contents {
        header: header.clone(),
        arrays: layout.arrays,
        checksums,
    }
}
