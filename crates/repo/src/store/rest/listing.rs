//! A list of files, read while it comes: `[{"name":…,"size":…},…]`.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufReader, Read},
    rc::Rc,
};

use reqwest::blocking::Response;
use serde::{
    Deserialize, Deserializer as _,
    de::{Error as _, SeqAccess, Visitor},
};

use super::exchange::{Tried, Trouble, again};
use crate::{Result, store::FileId};

/// Bytes that one item may take; an item of ours takes some 90.
const ITEM: usize = 4096;

#[derive(Deserialize)]
struct Item {
    name: String,
    size: u64,
}

/// Hands every file of the list on; names of another form are left out.
pub(super) fn read(response: Response, each: &mut dyn FnMut(FileId, u64) -> Result<()>) -> Tried<()> {
    let used = Rc::new(Cell::new(0));
    let counted = Counted { from: BufReader::with_capacity(64 << 10, response), used: used.clone() };
    let mut failed = None;
    let mut json = serde_json::Deserializer::from_reader(counted);
    let listed = json.deserialize_seq(Items { each, used, failed: &mut failed }).and_then(|()| json.end());
    match (failed, listed) {
        (Some(error), _) => Err(Trouble::Final(error)),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(again(error)),
    }
}

struct Items<'a> {
    each: &'a mut dyn FnMut(FileId, u64) -> Result<()>,
    used: Rc<Cell<usize>>,
    failed: &'a mut Option<crate::Error>,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        loop {
            self.used.set(0);
            let Some(Item { name, size }) = items.next_element()? else { return Ok(()) };
            let Ok(id) = name.parse() else { continue };
            if let Err(error) = (self.each)(id, size) {
                *self.failed = Some(error);
                return Err(A::Error::custom("stopped by the caller"));
            }
        }
    }
}

/// Ends a stream in which one item does not end: a name of gigabytes would else fill the memory.
struct Counted<R> {
    from: R,
    used: Rc<Cell<usize>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let used = self.used.get();
        if used > ITEM {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an item of the list is too long"));
        }
        let got = self.from.read(buffer)?;
        self.used.set(used + got);
        Ok(got)
    }
}
