//! All studies of an archive, although many archives end a long answer at a limit of their own, often without a
//! word.
//!
//! A list of some days is believed when both halves of the days have some of it and together no more than it: then
//! each half has fewer than any limit lets through. Else the halves are looked at in the same way, down to a single
//! day, which is believed if its list is shorter than every list that turned out to be cut. Without a limit
//! that costs a few questions; with one, about two for each list of that length.

use std::collections::BTreeMap;

use jiff::{Span, civil::Date};

use super::archive::{Archive, Listed};
use crate::Error;

type List = BTreeMap<String, Listed>;

/// So many studies that an answer lacks are asked for by name, whether they were deleted meanwhile.
const ASKED: usize = 8;

struct Search<'a> {
    archive: &'a mut dyn Archive,
    all: List,
    /// Lengths at which answers were cut without a word, and the days that were asked for.
    cut: BTreeMap<usize, (Date, Date)>,
    /// Single days and the lengths of their lists. A list that cannot be halved has to be judged by the others.
    single: Vec<(Date, usize)>,
}

/// Lists all studies. The second is true if the archive does not name all that it has when it is asked for all:
/// then a study without a date may be missing.
pub(super) fn all(archive: &mut dyn Archive) -> Result<(Vec<Listed>, bool), Error> {
    let mut search = Search { archive, all: List::new(), cut: BTreeMap::new(), single: Vec::new() };
    // A study without a date is in no span of days.
    let (undated, whole) = search.archive.studies(None)?;
    let first: List = undated.into_iter().collect();
    search.all.extend(first.clone());
    let (from, to) = (jiff::civil::date(1900, 1, 1), jiff::civil::date(2199, 12, 31));
    let dated = search.ask(from, to)?;
    search.span(from, to, dated)?;
    let limited = !whole || (search.all.len() > first.len() && search.lacks(first.len())?);
    let most = (limited && whole).then_some(first.len());
    search.crowded(most)?;
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
            if !whole {
                return Err(self.archive.too_many(&from.to_string()));
            }
            self.single.push((from, list.len()));
            return Ok(());
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
        if more && whole {
            self.cut.insert(list.len(), (from, to));
        }
        if !more && whole && !left.0.is_empty() && !right.0.is_empty() && left.1 && right.1 {
            return Ok(());
        }
        self.span(from, middle, left)?;
        self.span(next, to, right)
    }

    /// Whether the archive, asked for all again, still does not name what it has. What arrived while we asked is
    /// named now, and what was deleted is not there any more.
    fn lacks(&mut self, first: usize) -> Result<bool, Error> {
        let (again, whole) = self.archive.studies(None)?;
        let again: List = again.into_iter().collect();
        let lacking: Vec<String> = self.all.keys().filter(|uid| !again.contains_key(*uid)).cloned().collect();
        if !whole || (lacking.len() > ASKED && again.len() <= first) {
            return Ok(true);
        }
        for uid in &lacking {
            if self.archive.study(uid)?.is_some() {
                return Ok(true);
            }
        }
        self.all.extend(again);
        Ok(false)
    }

    /// Refuses a single day whose list is as long as one that was cut, or as the longest that the archive gives.
    fn crowded(&mut self, most: Option<usize>) -> Result<(), Error> {
        for (day, length) in std::mem::take(&mut self.single) {
            let cut = match self.cut.get(&length).copied() {
                // Something may just have arrived between two questions: a limit cuts again.
                Some(days) => self.archive.studies(Some(days))?.0.len() == length,
                None => false,
            };
            if cut || most.is_some_and(|most| most > 0 && length >= most) {
                return Err(self.archive.too_many(&day.to_string()));
            }
        }
        Ok(())
    }
}
