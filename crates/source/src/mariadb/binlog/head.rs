//! A dump's beginning, which names its place in the log.

use std::io::{self, Read};

use kuramori_model::{
    binlog::{Place, number},
    tree::{Entry, EntryKind, Sink, SinkError, TreePath},
};

use crate::postgres::wal::Item;

/// The dump names its place within so many bytes.
const HEAD: usize = 64 << 10;

/// Remembers a dump's beginning and what it was stored as.
pub(super) struct Head<'a> {
    pub(super) inner: &'a mut dyn Sink,
    pub(super) begin: Vec<u8>,
    pub(super) item: Option<Item>,
}

struct Ahead<'a> {
    from: &'a mut dyn Read,
    begin: &'a mut Vec<u8>,
    bytes: u64,
}

impl Read for Ahead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.from.read(buffer)?;
        let room = HEAD.saturating_sub(self.begin.len()).min(taken);
        self.begin.extend_from_slice(&buffer[..room]);
        self.bytes += taken as u64;
        Ok(taken)
    }
}

impl Sink for Head<'_> {
    fn known(&mut self, entry: &Entry) -> bool {
        self.inner.known(entry)
    }

    fn keep(&mut self, entry: Entry) -> Result<(), SinkError> {
        self.inner.keep(entry)
    }

    fn put(&mut self, entry: Entry, content: &mut dyn Read) -> Result<(), SinkError> {
        let (path, meta) = (entry.path.clone(), entry.meta.clone());
        let mut ahead = Ahead { from: content, begin: &mut self.begin, bytes: 0 };
        self.inner.put(entry, &mut ahead)?;
        self.item = Item::of(&path, &EntryKind::File { size: ahead.bytes }, &meta);
        Ok(())
    }

    fn seal(&mut self, folder: &TreePath) -> Result<(), SinkError> {
        self.inner.seal(folder)
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.inner.fault(path, why);
    }
}

/// The place that `--master-data=2` writes at a dump's beginning.
pub(super) fn place_in(begin: &[u8]) -> Option<Place> {
    let text = String::from_utf8_lossy(begin);
    let line = text.lines().find(|line| line.contains("CHANGE MASTER TO MASTER_LOG_FILE="))?;
    let file = line.split('\'').nth(1)?;
    let position = line.split("MASTER_LOG_POS=").nth(1)?.trim_end_matches([';', ' ']);
    number(file)?;
    Some(Place { file: file.to_owned(), position: position.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dumps_place_is_read_from_its_head() {
        let head =
            b"-- MariaDB dump\n-- CHANGE MASTER TO MASTER_LOG_FILE='bin.000003', MASTER_LOG_POS=1234;\n--\n";
        assert_eq!(place_in(head), Some(Place { file: "bin.000003".to_owned(), position: 1234 }));
        assert_eq!(place_in(b"-- MariaDB dump\n"), None);
        assert_eq!(place_in(&head[..60]), None);
    }
}
