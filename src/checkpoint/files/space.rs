//! Space on disk.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{attempt, Effect};
use crate::error::Result;
use crate::memory::zeroed_list;

/// Holes are filled in pieces of this size.
const PIECE: usize = 1 << 20;
/// The unit in which file systems allocate, at least.
const BLOCK: usize = 4096;

/// Refuses a file that would be longer than this process may make files. The
/// system would kill the process (SIGXFSZ).
pub(super) fn check_limit(path: &Path, length: u64) -> Result<()> {
    attempt("allocate", path, Effect::None, || {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{getrlimit, Resource};
            if getrlimit(Resource::Fsize)
                .current
                .is_some_and(|limit| limit < length)
            {
                return Err(io::Error::from(rustix::io::Errno::FBIG));
            }
        }
        let _ = length;
        Ok(())
    })
}

/// Gives a file this length and allocates all its space on disk, also that of
/// holes. New bytes are zero.
pub(super) fn allocate(file: &File, path: &Path, length: u64) -> Result<()> {
    check_limit(path, length)?;
    let mut zeros = zeroed_list(PIECE, || "allocating a file".to_owned())?;
    attempt("allocate", path, Effect::Allocate { length }, || {
        #[cfg(target_os = "linux")]
        match reserve(file, length) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            reserved => return reserved,
        }
        fill(file, length, &mut zeros)
    })
}

/// Asks the file system for the space. Where signals interrupt this, it is asked
/// for less at a time, because some file systems begin anew.
#[cfg(target_os = "linux")]
fn reserve(file: &File, length: u64) -> io::Result<()> {
    use rustix::fs::{fallocate, FallocateFlags};
    use rustix::io::Errno;
    let (mut done, mut piece) = (0, length);
    while done < length {
        let now = piece.min(length - done);
        match fallocate(file, FallocateFlags::empty(), done, now) {
            Ok(()) => done += now,
            Err(Errno::INTR) => piece = (now / 2).max(BLOCK as u64),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes zeros to the holes of a file and to its end.
#[cfg(unix)]
fn fill(file: &File, length: u64, buffer: &mut [u8]) -> io::Result<()> {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let metadata = file.metadata()?;
    let there = metadata.len().min(length);
    // A file with as many blocks as it needs has no holes.
    let mut position = match metadata.blocks() * 512 >= there {
        true => there,
        false => 0,
    };
    while position < length {
        let piece = buffer.len().min((length - position) as usize);
        let piece = &mut buffer[..piece];
        piece.fill(0);
        let inside = there.saturating_sub(position).min(piece.len() as u64) as usize;
        file.read_exact_at(&mut piece[..inside], position)?;
        // A block of zeros may be a hole. Other programs are locked out.
        for (index, block) in piece.chunks(BLOCK).enumerate() {
            if block.iter().all(|&byte| byte == 0) {
                file.write_all_at(block, position + (index * BLOCK) as u64)?;
            }
        }
        position += piece.len() as u64;
    }
    Ok(())
}

#[cfg(not(unix))]
fn fill(file: &File, length: u64, _: &mut [u8]) -> io::Result<()> {
    file.set_len(length)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn holes_are_filled_and_bytes_are_kept() {
        let file = tempfile::tempfile().unwrap();
        let length = 5 * PIECE as u64 + 77;
        file.set_len(3 * PIECE as u64).unwrap();
        let marks = [5, 2 * PIECE as u64 + 9];
        for at in marks {
            file.write_all_at(&[7], at).unwrap();
        }
        assert!(file.metadata().unwrap().blocks() * 512 < PIECE as u64);
        fill(&file, length, &mut vec![1; PIECE]).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), length);
        assert!(metadata.blocks() * 512 >= length);
        let mut bytes = vec![1; length as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let expected = |at: usize| if marks.contains(&(at as u64)) { 7 } else { 0 };
        assert!(bytes
            .iter()
            .enumerate()
            .all(|(at, &byte)| byte == expected(at)));
    }
}
