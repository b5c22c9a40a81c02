//! What each verb does: the keeper decides, the ledger promises, the guard acts, in this order.

use std::collections::BTreeSet;

use kuramori_lock::{
    Error, Guard, Keeper, Result,
    ledger::{Entry, Ledger},
    time::Time,
};
use kuramori_model::{
    clock::{Clock, Random},
    fault::{Fault, chain},
    gate::{Countersignature, Nonce, VerifyingKey},
    lock::{FILES_LIMIT, Name, Reply, Request, SignedShrink, Status, Stays},
};

use crate::config::Config;

/// Seconds of running time after which the time is written down even if nobody asks anything.
const WRITE_TIME_S: u64 = 60;

/// Everything together.
#[derive(Debug)]
pub(crate) struct Desk {
    guard: Guard,
    keeper: Keeper,
    ledger: Ledger,
    clock: Box<dyn Clock>,
    boot_id: String,
    officers: Vec<VerifyingKey>,
    quorum: usize,
    nonce: Nonce,
    why: Option<String>,
    written_s: u64,
}

impl Desk {
    /// Opens the ledger and sets every flag that it promises.
    pub(crate) fn open(config: &Config, clock: Box<dyn Clock>, random: &dyn Random) -> anyhow::Result<Self> {
        fs_err::create_dir_all(&config.state)?;
        let (ledger, entries) = Ledger::open(&config.state.join("ledger"))?;
        let boot_id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let mut keeper = Keeper::new(config.rules(), Time::begin(&boot_id, clock.boot(), clock.now()));
        for entry in &entries {
            keeper.apply(entry);
        }
        let guard = Guard::new(&config.root, config.owner());
        let why = guard.probe().err().map(|error| chain(&error));
        let mut desk = Self {
            guard,
            keeper,
            ledger,
            clock,
            boot_id,
            officers: config.officer_keys.clone(),
            quorum: config.quorum,
            nonce: Nonce::draw(random),
            why,
            written_s: 0,
        };
        desk.tick(true)?;
        if desk.why.is_none() {
            desk.mend();
        }
        Ok(desk)
    }

    /// What was promised and not done yet, or undone by somebody else.
    fn mend(&self) {
        for repository in self.keeper.repositories() {
            if let Err(error) = self.guard.prepare(repository) {
                tracing::error!(repository, "{}", chain(&error));
            }
        }
        for (repository, file) in self.keeper.files() {
            match self.guard.lock(repository, file) {
                Ok(()) => {}
                Err(error) => {
                    let (kind, id) = (file.kind.as_str(), file.id);
                    tracing::error!(repository, kind, %id, "{}", chain(&error));
                }
            }
        }
    }

    /// Goes on to now; the time is durable at least once a minute of asking.
    pub(crate) fn tick(&mut self, write: bool) -> Result<()> {
        let was_frozen = self.keeper.time.frozen();
        self.keeper.time.tick(&self.boot_id, self.clock.boot(), self.clock.now());
        let time = self.keeper.time.clone();
        let due = time.seconds() >= self.written_s + WRITE_TIME_S || time.frozen() != was_frozen;
        if write || due {
            self.written_s = time.seconds();
            self.ledger.add(&[Entry::Time { time }])?;
        }
        Ok(())
    }

    /// How things stand.
    pub(crate) fn status(&self) -> Status {
        Status {
            enforced: self.why.is_none(),
            why: self.why.clone(),
            files: self.keeper.count(),
            accumulated_s: self.keeper.time.seconds(),
            skew_s: self.keeper.time.skew(),
            frozen: self.keeper.time.frozen(),
            nonce: self.nonce.to_string(),
            removed_today: self.keeper.removed_today(),
            removals_per_day: self.keeper.rules.removals_per_day,
        }
    }

    /// One verb.
    pub(crate) fn answer(&mut self, request: Request) -> Reply {
        let done = self.tick(false).and_then(|()| self.act(request));
        done.unwrap_or_else(|error| Reply::Refused {
            code: error.code().to_owned(),
            message: chain(&error),
            hint: error.hint(),
        })
    }

    fn act(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Status {} => Ok(Reply::Status(self.status())),
            Request::Prepare { repository } => {
                self.enforced()?;
                self.guard.prepare(&repository)?;
                Ok(Reply::Done { files: 0 })
            }
            Request::Lock { repository, files, days } => self.lock(&repository, &files, days),
            Request::Mark { repository, snapshot, verdict } => {
                self.note(&Entry::Mark { repository, snapshot, verdict })?;
                Ok(Reply::Done { files: 1 })
            }
            Request::Reap { repository, files, dry } => self.reap(&repository, &files, dry),
            Request::Shrink { order } => self.shrink(&order),
            Request::ConfirmClock { signatures } => {
                let message = format!("kuramori-lock-clock-v1\nnonce={}\n", self.nonce);
                self.signed(message.as_bytes(), &signatures)?;
                let skew_s = self.keeper.time.skew();
                self.note(&Entry::Confirm { skew_s })?;
                self.tick(true)?;
                // Each confirmation has a nonce of its own.
                self.nonce = Nonce::draw(&kuramori_model::clock::SystemRandom);
                Ok(Reply::Done { files: 0 })
            }
        }
    }

    fn enforced(&self) -> Result<()> {
        self.guard.probe_known(self.why.as_deref())
    }

    /// Durable first, then counted.
    fn note(&mut self, entry: &Entry) -> Result<()> {
        self.ledger.add(std::slice::from_ref(entry))?;
        self.keeper.apply(entry);
        Ok(())
    }

    fn limited(files: &[Name]) -> Result<()> {
        if files.len() > FILES_LIMIT {
            return Err(Error::Order(format!("{} files in one request; at most {FILES_LIMIT}", files.len())));
        }
        Ok(())
    }

    /// The promise is durable before the flag is set: a kill between leaves a promise that the next start
    /// keeps. A file that is not there is not promised.
    fn lock(&mut self, repository: &str, files: &[Name], days: u32) -> Result<Reply> {
        Self::limited(files)?;
        self.enforced()?;
        let files: Vec<Name> = files.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        for file in &files {
            self.guard.is_locked(repository, *file)?;
        }
        for entry in self.keeper.keep(repository, &files, days) {
            self.note(&entry)?;
        }
        for file in &files {
            self.guard.lock(repository, *file)?;
        }
        Ok(Reply::Done { files: files.len() as u64 })
    }

    fn reap(&mut self, repository: &str, files: &[Name], dry: bool) -> Result<Reply> {
        Self::limited(files)?;
        let (removed, stays): (Vec<Name>, Vec<Stays>) = self.keeper.plan(repository, files);
        if !dry && !removed.is_empty() {
            let at_s = self.keeper.time.seconds();
            self.note(&Entry::Remove { repository: repository.to_owned(), files: removed.clone(), at_s })?;
            for file in &removed {
                self.guard.remove(repository, *file)?;
            }
        }
        Ok(Reply::Reaped { removed, stays })
    }

    fn shrink(&mut self, order: &SignedShrink) -> Result<Reply> {
        let nonce = order.shrink.nonce.to_string();
        if self.keeper.is_used(&nonce) {
            return Err(Error::Order("it was taken before".into()));
        }
        self.signed(&order.shrink.canonical(), &order.signatures)?;
        let from_s = self.keeper.time.seconds() + self.keeper.rules.delay_s;
        let shrink = order.shrink.clone();
        self.note(&Entry::Shrink { repository: shrink.repository, days: shrink.days, from_s, nonce })?;
        Ok(Reply::Done { files: 0 })
    }

    /// Signatures of different officers.
    fn signed(&self, message: &[u8], signatures: &[Countersignature]) -> Result<()> {
        let good = |one: &&Countersignature| {
            self.officers.contains(&one.key) && one.key.verifies(message, &one.signature)
        };
        let have: BTreeSet<[u8; 32]> = signatures.iter().filter(good).map(|one| one.key.0).collect();
        if have.len() < self.quorum {
            let text = format!("{} officers signed rightly, {} are needed", have.len(), self.quorum);
            return Err(Error::Order(text));
        }
        Ok(())
    }
}
