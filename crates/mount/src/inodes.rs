//! The numbers that the kernel has in its hands. It says when it gives one back, so their number does not grow with
//! what was ever looked at.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
};

use crate::browse::{Facts, Item};

#[derive(Debug)]
struct Held {
    item: Item,
    facts: Facts,
    key: (u64, OsString),
    /// How often the kernel was given the number and has not given it back.
    count: u64,
}

#[derive(Debug)]
pub(crate) struct Inodes {
    held: HashMap<u64, Held>,
    by_key: HashMap<(u64, OsString), u64>,
    next: u64,
}

/// The root's number.
pub(crate) const ROOT: u64 = 1;

impl Inodes {
    pub(crate) fn new(facts: Facts) -> Self {
        let root = Held { item: Item::Root, facts, key: (0, OsString::new()), count: 1 };
        Self { held: HashMap::from([(ROOT, root)]), by_key: HashMap::new(), next: ROOT + 1 }
    }

    pub(crate) fn get(&self, number: u64) -> Option<(Item, Facts)> {
        self.held.get(&number).map(|held| (held.item.clone(), held.facts.clone()))
    }

    /// Gives an item its number; the same as before as long as the kernel holds it.
    pub(crate) fn give(&mut self, parent: u64, name: &OsStr, item: Item, facts: Facts) -> u64 {
        let key = (parent, name.to_owned());
        if let Some(number) = self.by_key.get(&key)
            && let Some(held) = self.held.get_mut(number)
        {
            held.count += 1;
            (held.item, held.facts) = (item, facts);
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.by_key.insert(key.clone(), number);
        self.held.insert(number, Held { item, facts, key, count: 1 });
        number
    }

    /// The kernel gives a number back so many times.
    pub(crate) fn forget(&mut self, number: u64, times: u64) {
        if number == ROOT {
            return;
        }
        let Some(held) = self.held.get_mut(&number) else { return };
        held.count = held.count.saturating_sub(times);
        if held.count == 0
            && let Some(held) = self.held.remove(&number)
        {
            self.by_key.remove(&held.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_number_stays_while_it_is_held_and_goes_when_it_is_given_back() {
        let facts = || Facts::folder(SystemTime::UNIX_EPOCH);
        let mut inodes = Inodes::new(facts());
        let name = OsStr::new("a");
        let first = inodes.give(ROOT, name, Item::Systems, facts());
        assert_eq!(inodes.give(ROOT, name, Item::Systems, facts()), first);
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_some());
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_none());
        assert_ne!(inodes.give(ROOT, name, Item::Systems, facts()), first, "a number is never used again");
        inodes.forget(ROOT, 100);
        assert!(inodes.get(ROOT).is_some());
        assert_eq!((inodes.held.len(), inodes.by_key.len()), (2, 1));
    }
}
