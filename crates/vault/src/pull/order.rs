//! Who is next: the state of all repositories in one pull.

use std::collections::{HashMap, VecDeque};

use kuramori_repo::store::{FileId, FileKind};

use super::Brought;

/// One turn in this many goes to a repository that is not the first in the restore order.
const FLOOR: u64 = 5;
/// Failures of one file before its repository is given up for this window.
const TRIES: u32 = 3;
/// Damaged files that are left out before a repository is given up for this window.
const SKIPS: usize = 10_000;

/// What a repository has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    List,
    Packs,
    Indexes,
    Snapshots,
    Done,
    Failed,
}

/// The frozen lists of what is missing here.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    pub(super) packs: Vec<(FileId, u64)>,
    pub(super) indexes: Vec<(FileId, u64)>,
    pub(super) snapshots: Vec<(FileId, u64)>,
}

/// One thing to do. Without a file: list the repository.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) repository: usize,
    pub(super) file: Option<(FileKind, FileId, u64)>,
}

#[derive(Debug)]
struct Row {
    brought: Brought,
    stage: Stage,
    queue: VecDeque<(FileId, u64)>,
    later: Frozen,
    in_flight: u32,
    served: u64,
    tries: HashMap<FileId, u32>,
    list_tries: u32,
    skipped: Vec<(FileId, u64)>,
}

/// All repositories of one pull.
#[derive(Debug)]
pub(super) struct Board {
    rows: Vec<Row>,
    turn: u64,
}

impl Board {
    pub(super) fn new(repositories: impl Iterator<Item = Brought>) -> Self {
        let row = |brought| Row {
            brought,
            stage: Stage::List,
            queue: VecDeque::new(),
            later: Frozen::default(),
            in_flight: 0,
            served: 0,
            tries: HashMap::new(),
            list_tries: 0,
            skipped: Vec::new(),
        };
        Self { rows: repositories.map(row).collect(), turn: 0 }
    }

    pub(super) fn name(&self, repository: usize) -> &str {
        &self.rows[repository].brought.name
    }

    /// Takes the next task out.
    pub(super) fn pick(&mut self) -> Option<Task> {
        let waiting = |row: &Row| row.stage == Stage::List && row.in_flight == 0;
        if let Some(repository) = self.rows.iter().position(waiting) {
            self.rows[repository].in_flight += 1;
            return Some(Task { repository, file: None });
        }
        let ready: Vec<usize> = (0..self.rows.len()).filter(|n| !self.rows[*n].queue.is_empty()).collect();
        let first = *ready.first()?;
        self.turn += 1;
        let repository = if self.turn.is_multiple_of(FLOOR) {
            ready[1..].iter().copied().min_by_key(|n| self.rows[*n].served).unwrap_or(first)
        } else {
            first
        };
        let row = &mut self.rows[repository];
        let (id, size) = row.queue.pop_front()?;
        row.in_flight += 1;
        row.served += size;
        let kind = match row.stage {
            Stage::Packs => FileKind::Pack,
            Stage::Indexes => FileKind::Index,
            _ => FileKind::Snapshot,
        };
        Some(Task { repository, file: Some((kind, id, size)) })
    }

    /// Whether no task is under way, so that none can follow.
    pub(super) fn idle(&self) -> bool {
        self.rows.iter().all(|row| row.in_flight == 0)
    }

    pub(super) fn freeze(&mut self, repository: usize, frozen: Frozen) {
        let row = &mut self.rows[repository];
        row.queue = frozen.packs.into();
        row.later = Frozen { packs: Vec::new(), indexes: frozen.indexes, snapshots: frozen.snapshots };
        row.stage = Stage::Packs;
    }

    pub(super) fn fetched(&mut self, repository: usize, kind: FileKind, size: u64) {
        let brought = &mut self.rows[repository].brought;
        brought.files += 1;
        brought.bytes += size;
        brought.snapshots += u64::from(kind == FileKind::Snapshot);
    }

    /// A task is no longer under way; a stage whose last task this was gives way to the next.
    pub(super) fn ended(&mut self, task: &Task) {
        let row = &mut self.rows[task.repository];
        row.in_flight -= 1;
        self.advance(task.repository);
    }

    fn advance(&mut self, repository: usize) {
        let row = &mut self.rows[repository];
        while row.in_flight == 0 && row.queue.is_empty() {
            (row.stage, row.queue) = match row.stage {
                Stage::Packs => (Stage::Indexes, std::mem::take(&mut row.later.indexes).into()),
                Stage::Indexes => (Stage::Snapshots, std::mem::take(&mut row.later.snapshots).into()),
                Stage::Snapshots => (Stage::Done, VecDeque::new()),
                Stage::List | Stage::Done | Stage::Failed => break,
            };
        }
    }

    /// Lists the repository anew. False if that was done too often.
    pub(super) fn relist(&mut self, repository: usize, most: u32) -> bool {
        let row = &mut self.rows[repository];
        if row.stage == Stage::List {
            return true;
        }
        if row.brought.relists >= most {
            return false;
        }
        row.brought.relists += 1;
        row.stage = Stage::List;
        row.queue.clear();
        row.later = Frozen::default();
        true
    }

    /// Tries a failed task once more. False if that was done too often.
    pub(super) fn again(&mut self, task: &Task) -> bool {
        let row = &mut self.rows[task.repository];
        let tries = match task.file {
            Some((_, id, _)) => row.tries.entry(id).or_default(),
            None => &mut row.list_tries,
        };
        *tries += 1;
        let may = *tries < TRIES;
        if may {
            self.put_back(task);
        }
        may
    }

    /// Puts a task back, so that it counts as missing.
    pub(super) fn put_back(&mut self, task: &Task) {
        let row = &mut self.rows[task.repository];
        let Some((kind, id, size)) = task.file else { return };
        let stage = match kind {
            FileKind::Pack => Stage::Packs,
            FileKind::Index => Stage::Indexes,
            _ => Stage::Snapshots,
        };
        if matches!(row.stage, Stage::List | Stage::Failed) {
            return;
        }
        if row.stage != stage {
            // This was the last file of its stage, and the stage has already given way.
            let queue = std::mem::take(&mut row.queue).into();
            match row.stage {
                Stage::Indexes => row.later.indexes = queue,
                Stage::Snapshots => row.later.snapshots = queue,
                _ => {}
            }
            row.stage = stage;
        }
        row.queue.push_back((id, size));
    }

    /// Leaves a damaged file out. False if that was done too often.
    pub(super) fn skip(&mut self, task: &Task) -> bool {
        let row = &mut self.rows[task.repository];
        let Some((_, id, size)) = task.file else { return false };
        if row.skipped.len() >= SKIPS {
            return false;
        }
        row.skipped.push((id, size));
        true
    }

    pub(super) fn give_up(&mut self, repository: usize, why: String) {
        let row = &mut self.rows[repository];
        row.stage = Stage::Failed;
        row.later.packs.extend(row.queue.drain(..));
        row.brought.why.get_or_insert(why);
    }

    pub(super) fn into_brought(self) -> Vec<Brought> {
        let finish = |row: Row| {
            let mut brought = row.brought;
            let missing = row
                .queue
                .iter()
                .chain(&row.later.packs)
                .chain(&row.later.indexes)
                .chain(&row.later.snapshots)
                .chain(&row.skipped);
            for (_, size) in missing {
                brought.backlog_files += 1;
                brought.backlog_bytes += size;
            }
            brought.finished = row.stage == Stage::Done && row.skipped.is_empty();
            if !brought.finished {
                // At least the file that failed, or a list that nobody has seen.
                brought.backlog_files = brought.backlog_files.max(1);
            }
            brought
        };
        self.rows.into_iter().map(finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(names: &[&str]) -> Board {
        Board::new(names.iter().map(|name| Brought { name: (*name).to_owned(), ..Brought::default() }))
    }

    fn files(count: u8, size: u64) -> Vec<(FileId, u64)> {
        (0..count).map(|n| (FileId([n; 32]), size)).collect()
    }

    fn listed(board: &mut Board, frozen: Frozen) {
        let task = board.pick().unwrap();
        assert!(task.file.is_none());
        board.freeze(task.repository, frozen);
        board.ended(&task);
    }

    #[test]
    fn the_first_in_the_restore_order_goes_first_and_none_starves() {
        let mut board = board(&["_control", "ehr", "pacs"]);
        for _ in 0..3 {
            listed(&mut board, Frozen { packs: files(100, 10), ..Frozen::default() });
        }
        let picked: Vec<usize> = (0..100).map(|_| board.pick().unwrap().repository).collect();
        let of = |n| picked.iter().filter(|p| **p == n).count();
        assert_eq!((of(0), of(1), of(2)), (80, 10, 10));
    }

    #[test]
    fn packs_come_before_indexes_before_snapshots() {
        let mut board = board(&["ehr"]);
        let frozen = Frozen { packs: files(2, 1), indexes: files(1, 1), snapshots: files(1, 1) };
        listed(&mut board, frozen);
        let (first, second) = (board.pick().unwrap(), board.pick().unwrap());
        board.ended(&first);
        assert!(board.pick().is_none(), "the second pack is still under way");
        board.ended(&second);
        let index = board.pick().unwrap();
        assert_eq!(index.file.unwrap().0, FileKind::Index);
        // It fails as the last of its stage: the snapshots wait for it all the same.
        board.ended(&index);
        assert!(board.again(&index));
        let index = board.pick().unwrap();
        assert_eq!(index.file.unwrap().0, FileKind::Index);
        board.ended(&index);
        let snapshot = board.pick().unwrap();
        assert_eq!(snapshot.file.unwrap().0, FileKind::Snapshot);
        board.ended(&snapshot);
        assert!(board.pick().is_none() && board.idle());
        assert!(board.into_brought()[0].finished);
    }

    #[test]
    fn a_vanished_file_lists_anew_only_so_often() {
        let mut board = board(&["ehr"]);
        for round in 0..3 {
            listed(&mut board, Frozen { packs: files(3, 7), ..Frozen::default() });
            let task = board.pick().unwrap();
            board.ended(&task);
            assert_eq!(board.relist(0, 2), round < 2);
        }
        board.give_up(0, "again and again".into());
        let brought = board.into_brought().remove(0);
        assert_eq!((brought.relists, brought.backlog_files, brought.finished), (2, 2, false));
    }
}
