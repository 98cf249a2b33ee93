//! For tests: a machine that may lose power. It applies the recorded operations to
//! files, and knows of every byte whether it is certainly on the disk.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::test_double::Event;

/// The size of the unit that a disk writes atomically.
const SECTOR: usize = 512;
/// The size of the unit that the system writes from a mapping.
const PAGE: usize = 4096;

/// A file that may have several names, or none.
#[derive(Clone, Default)]
struct Inode {
    /// The contents that are certainly on the disk.
    durable: Vec<u8>,
    /// The contents as the running system sees them.
    seen: Vec<u8>,
    /// Changes that may be on the disk, in order.
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum Pending {
    /// Bytes of one sector.
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A change of a name that may be on the disk.
#[derive(Clone)]
enum Naming {
    Set(PathBuf, usize),
    Gone(PathBuf),
}

/// The files as the system sees them, and as they are on the disk.
#[derive(Clone, Default)]
pub(crate) struct Machine {
    inodes: Vec<Inode>,
    /// Names as a running system sees them.
    seen: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    pending: Vec<Naming>,
}

/// The contents of a disk: files by path.
pub(crate) type Disk = BTreeMap<PathBuf, Vec<u8>>;

impl Machine {
    /// A disk with files on it.
    pub(crate) fn with<'a>(files: impl IntoIterator<Item = (&'a Path, &'a [u8])>) -> Machine {
        let mut machine = Machine::default();
        for (path, bytes) in files {
            let inode = machine.inodes.len();
            machine.inodes.push(Inode {
                durable: bytes.to_vec(),
                seen: bytes.to_vec(),
                pending: Vec::new(),
            });
            machine.seen.insert(path.to_path_buf(), inode);
            machine.durable.insert(path.to_path_buf(), inode);
        }
        machine
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        &mut self.inodes[self.seen[path]]
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(path) => {
                let inode = self.inodes.len();
                self.inodes.push(Inode::default());
                self.seen.insert(path.clone(), inode);
                self.pending.push(Naming::Set(path.clone(), inode));
            }
            Event::Write(path, offset, bytes) => self.inode(path).write(*offset as usize, bytes),
            Event::Allocate(path, length) => {
                let length = Pending::Length(*length as usize);
                let inode = self.inode(path);
                put(&mut inode.seen, &length);
                inode.pending.push(length);
            }
            Event::Stores(path, all) => self.inode(path).store(all),
            Event::SyncFile(path) => {
                let inode = self.inode(path);
                inode.pending.clear();
                inode.durable = inode.seen.clone();
            }
            Event::SyncMapping(path, synced) => self.inode(path).sync(synced),
            Event::SyncDirectory => {
                self.durable = self.seen.clone();
                self.pending.clear();
            }
            Event::Rename(from, to) => {
                let inode = self.seen.remove(from).expect("renamed files exist");
                self.seen.insert(to.clone(), inode);
                self.pending.push(Naming::Gone(from.clone()));
                self.pending.push(Naming::Set(to.clone(), inode));
            }
            Event::Remove(path) => {
                self.seen.remove(path);
                self.pending.push(Naming::Gone(path.clone()));
            }
        }
    }

    /// A disk that a power failure may leave now: `keep` says of every change that
    /// is not synced, a sector or a name, whether it is there.
    pub(crate) fn disk(&self, keep: &mut impl FnMut() -> bool) -> Disk {
        let names = self.names(keep);
        let content = |inode: usize, keep: &mut dyn FnMut() -> bool| {
            let mut bytes = self.inodes[inode].durable.clone();
            for pending in self.inodes[inode].pending.iter().filter(|_| keep()) {
                put(&mut bytes, pending);
            }
            bytes
        };
        let files = names.into_iter();
        files
            .map(|(path, inode)| (path, content(inode, keep)))
            .collect()
    }

    /// The pages of a file that differ from what is certainly on the disk.
    pub(crate) fn dirty_pages(&self, path: &Path) -> Vec<usize> {
        let inode = &self.inodes[self.seen[path]];
        let pages = inode.pending.iter().filter_map(|pending| match pending {
            Pending::Write(offset, _) => Some(offset / PAGE),
            Pending::Length(_) => None,
        });
        let mut pages: Vec<usize> = pages.collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// The file after a power failure that has left these pages as the system saw
    /// them last, and the others as they are certainly on the disk.
    pub(crate) fn with_pages(&self, path: &Path, pages: &[usize]) -> Vec<u8> {
        let inode = &self.inodes[self.seen[path]];
        let mut bytes = inode.durable.clone();
        bytes.resize(inode.seen.len(), 0);
        for page in pages {
            let range = page * PAGE..bytes.len().min((page + 1) * PAGE);
            bytes[range.clone()].copy_from_slice(&inode.seen[range]);
        }
        bytes
    }

    fn names(&self, keep: &mut impl FnMut() -> bool) -> BTreeMap<PathBuf, usize> {
        let mut names = self.durable.clone();
        for naming in self.pending.iter().filter(|_| keep()) {
            match naming {
                Naming::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
                Naming::Gone(path) => drop(names.remove(path)),
            }
        }
        names
    }
}

impl Inode {
    /// Notes new bytes, every sector for itself.
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            let pending = Pending::Write(at, piece.to_vec());
            put(&mut self.seen, &pending);
            self.pending.push(pending);
            at += piece.len();
            rest = more;
        }
    }

    /// Notes the sectors in which a mapping differs from what was seen before.
    fn store(&mut self, all: &[u8]) {
        assert_eq!(all.len(), self.seen.len());
        for start in (0..all.len()).step_by(SECTOR) {
            let range = start..all.len().min(start + SECTOR);
            if self.seen[range.clone()] != all[range.clone()] {
                self.write(start, &all[range]);
            }
        }
    }

    fn sync(&mut self, synced: &Range<usize>) {
        let pages = synced.start / PAGE * PAGE..synced.end.next_multiple_of(PAGE);
        let pages = pages.start..pages.end.min(self.seen.len());
        self.durable.resize(self.seen.len(), 0);
        self.durable[pages.clone()].copy_from_slice(&self.seen[pages.clone()]);
        self.pending.retain(|pending| match pending {
            Pending::Write(offset, _) => !pages.contains(offset),
            Pending::Length(_) => true,
        });
    }
}

fn put(bytes: &mut Vec<u8>, pending: &Pending) {
    let end = match pending {
        Pending::Write(offset, piece) => offset + piece.len(),
        Pending::Length(length) => *length,
    };
    bytes.resize(bytes.len().max(end), 0);
    if let Pending::Write(offset, piece) = pending {
        bytes[*offset..end].copy_from_slice(piece);
    }
}
