//! All studies of an archive, although many archives end a long answer at a limit of their own, often without a
//! word.
//!
//! A list of some days is believed when both halves of the days have some of it and together no more than it: then
//! each half has fewer than any limit lets through. Else the halves are looked at in the same way. Without a limit
//! that costs a few questions; with one, about two for each list of that length.

use std::collections::BTreeMap;

use jiff::{Span, civil::Date};

use super::archive::{Archive, Listed};
use crate::Error;

type List = BTreeMap<String, Listed>;

struct Search<'a> {
    archive: &'a mut dyn Archive,
    all: List,
    /// Lengths at which answers were cut, and how often.
    cut: BTreeMap<usize, u32>,
}

/// Lists all studies. The second is true if the archive has a limit: then a study without a date may be missing.
pub(super) fn all(archive: &mut dyn Archive) -> Result<(Vec<Listed>, bool), Error> {
    let mut search = Search { archive, all: List::new(), cut: BTreeMap::new() };
    // A study without a date is in no span of days.
    let (undated, whole) = search.archive.studies(None)?;
    let first = undated.len();
    search.all.extend(undated);
    let (from, to) = (jiff::civil::date(1900, 1, 1), jiff::civil::date(2199, 12, 31));
    let dated = search.ask(from, to)?;
    search.span(from, to, dated)?;
    // What arrived while we asked is no limit; what is cut is cut again and again.
    let limited = !whole || search.cut.values().any(|times| *times > 1) || search.all.len() > first + 1;
    Ok((search.all.into_values().collect(), limited))
}

impl Search<'_> {
    fn ask(&mut self, from: Date, to: Date) -> Result<(List, bool), Error> {
        let (list, whole) = self.archive.studies(Some((from, to)))?;
        let list: List = list.into_iter().collect();
        self.all.extend(list.clone());
        Ok((list, whole))
    }

    fn span(&mut self, from: Date, to: Date, (list, whole): (List, bool)) -> Result<(), Error> {
        if list.is_empty() && whole {
            return Ok(());
        }
        if from == to {
            let cut = !whole || self.cut.get(&list.len()).is_some_and(|times| *times > 1);
            return if cut { Err(self.archive.too_many(&from.to_string())) } else { Ok(()) };
        }
        let wrong = |error: jiff::Error| Error::Config(error.to_string());
        let half = (to - from).get_days() / 2;
        let middle = from.checked_add(Span::new().days(half)).map_err(wrong)?;
        let next = middle.tomorrow().map_err(wrong)?;
        let (left, right) = (self.ask(from, middle)?, self.ask(next, to)?);
        if !left.0.is_empty() && left.0 == right.0 {
            // It pays no heed to dates: there is nothing more to find out.
            return Ok(());
        }
        let more = left.0.len() + right.0.len() > list.len();
        if more || !whole {
            *self.cut.entry(list.len()).or_default() += 1;
        }
        if !more && whole && !left.0.is_empty() && !right.0.is_empty() && left.1 && right.1 {
            return Ok(());
        }
        self.span(from, middle, left)?;
        self.span(next, to, right)
    }
}
