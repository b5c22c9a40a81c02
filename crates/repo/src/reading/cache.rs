//! Pieces in memory, within a budget: the one that was wanted longest ago goes first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::content::Piece;
use crate::{Result, format::blob::BlobId};

#[derive(Debug)]
enum Slot {
    Loading,
    Ready { bytes: Arc<Vec<u8>>, used: u64 },
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<BlobId, Slot>,
    /// Pieces that are ready, by when they were wanted last.
    order: BTreeMap<u64, BlobId>,
    now: u64,
    /// Bytes of all slots, with those that are loading.
    held: usize,
    loading: usize,
    loads: u64,
}

impl State {
    /// Gives the piece if it is ready, and remembers that it was wanted.
    fn touch(&mut self, id: &BlobId) -> Option<Arc<Vec<u8>>> {
        self.now += 1;
        let Some(Slot::Ready { bytes, used }) = self.slots.get_mut(id) else { return None };
        self.order.remove(used);
        *used = self.now;
        self.order.insert(self.now, *id);
        Some(Arc::clone(bytes))
    }

    /// Drops the oldest until so many bytes are free; `false` if what is loading takes the room.
    fn make_room(&mut self, bytes: usize, budget: usize) -> bool {
        while self.held + bytes > budget {
            let Some((_, id)) = self.order.pop_first() else { return false };
            if let Some(Slot::Ready { bytes, .. }) = self.slots.remove(&id) {
                self.held -= bytes.len();
            }
        }
        true
    }
}

#[derive(Debug)]
pub(super) struct Cache {
    state: Mutex<State>,
    changed: Condvar,
    budget: usize,
}

/// Takes back the announcement of a load that failed or panicked, so that nobody waits for it.
struct Announced<'a> {
    cache: &'a Cache,
    piece: Piece,
    loaded: Option<Arc<Vec<u8>>>,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        state.loading -= 1;
        match self.loaded.take() {
            Some(bytes) => {
                state.now += 1;
                let used = state.now;
                state.slots.insert(self.piece.id, Slot::Ready { bytes, used });
                state.order.insert(used, self.piece.id);
                // One that is larger than the whole budget does not stay.
                state.make_room(0, self.cache.budget);
            }
            None => {
                state.slots.remove(&self.piece.id);
                state.held -= self.piece.length as usize;
            }
        }
        drop(state);
        self.cache.changed.notify_all();
    }
}

impl Cache {
    pub(super) fn new(budget: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), budget }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn used(&self) -> usize {
        self.lock().held
    }

    pub(super) fn loads(&self) -> u64 {
        self.lock().loads
    }

    /// The piece, loaded if it is not there. Who is not patient gets none instead of waiting for room or for
    /// somebody else's load. `load` gives exactly as many bytes as the piece has.
    pub(super) fn get(
        &self,
        piece: Piece,
        patient: bool,
        load: &dyn Fn() -> Result<Vec<u8>>,
    ) -> Result<Option<Arc<Vec<u8>>>> {
        let length = piece.length as usize;
        let mut state = self.lock();
        loop {
            if let Some(bytes) = state.touch(&piece.id) {
                return Ok(Some(bytes));
            }
            let free = !state.slots.contains_key(&piece.id)
                && (state.make_room(length, self.budget) || state.loading == 0);
            if free {
                break;
            }
            if !patient {
                return Ok(None);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.slots.insert(piece.id, Slot::Loading);
        state.held += length;
        state.loading += 1;
        state.loads += 1;
        drop(state);
        let mut announced = Announced { cache: self, piece, loaded: None };
        let bytes = Arc::new(load()?);
        announced.loaded = Some(Arc::clone(&bytes));
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Error;

    fn piece(number: u8, length: u32) -> Piece {
        Piece { id: BlobId([number; 32]), length, zero: false }
    }

    #[test]
    fn the_budget_holds_and_what_was_wanted_last_stays() {
        let cache = Cache::new(1000);
        let get = |number: u8, length: u32| {
            cache.get(piece(number, length), true, &|| Ok(vec![number; length as usize])).unwrap().unwrap()
        };
        for number in 1..=10 {
            assert_eq!(get(number, 100)[0], number);
        }
        get(1, 100);
        assert_eq!((cache.used(), cache.loads()), (1000, 10));
        get(11, 100);
        assert_eq!(cache.used(), 1000);
        get(1, 100);
        assert_eq!(cache.loads(), 11, "the first was wanted again, so the second went");
        get(2, 100);
        assert_eq!(cache.loads(), 12);
        // Larger than everything: it is given, and does not stay.
        assert_eq!(get(20, 5000).len(), 5000);
        assert!(cache.used() <= 1000);
    }

    #[test]
    fn many_who_want_the_same_wait_for_one_load_and_a_failed_one_is_tried_again() {
        let cache = Cache::new(1 << 20);
        let loads = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let load = || {
                        loads.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        Ok(vec![7; 4096])
                    };
                    assert_eq!(cache.get(piece(7, 4096), true, &load).unwrap().unwrap()[0], 7);
                });
            }
        });
        assert_eq!(loads.load(Ordering::SeqCst), 1);
        let failing = || Err(Error::Cancelled);
        assert!(cache.get(piece(8, 10), true, &failing).is_err());
        assert_eq!(cache.used(), 4096, "a load that failed holds nothing");
        assert!(cache.get(piece(8, 10), true, &|| Ok(vec![8; 10])).unwrap().is_some());
    }
}
