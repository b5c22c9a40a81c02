//! One system now: everything that is wrong with its backups, from recorded facts.

use jiff::Timestamp;
use kuramori_model::{
    class::DataClass,
    finding::{Finding, Severity, Value},
    ids::{RunId, SystemId},
};

use crate::{
    calendar::Calendar,
    expect::Expectations,
    facts::Taken,
    history::usual,
    schedule::{PUNCTUAL_S, Timetable, later},
};

/// All that is known of one system.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Which one.
    pub system: &'a SystemId,
    /// Since when it is registered: nothing before is owed.
    pub since: Timestamp,
    /// Whether it is meant to be backed up.
    pub enabled: bool,
    /// Its kind of record: gives the floor of generations.
    pub data: DataClass,
    /// When it is due.
    pub timetable: &'a Timetable,
    /// What a healthy backup looks like.
    pub expect: &'a Expectations,
    /// Rest days.
    pub calendar: &'a Calendar,
    /// The last points of the primary, oldest first; about 100 are useful.
    pub points: &'a [Taken],
    /// The job that works now.
    pub running: Option<Working>,
    /// The last job, if it ended without a point.
    pub failed: Option<Broken>,
    /// Generations that are there now at the primary.
    pub generations: u32,
    /// The vault's copy; none where the system has none.
    pub vault: Option<AtVault>,
}

/// A job that works now.
#[derive(Debug, Clone)]
pub struct Working {
    /// Which run.
    pub run: RunId,
    /// When it began.
    pub started: Timestamp,
    /// When it last came further.
    pub progress: Timestamp,
    /// What it does: `reading`.
    pub phase: String,
}

/// A job that ended without a restore point.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Which run.
    pub run: RunId,
    /// When it ended.
    pub ended: Timestamp,
    /// Stable code of its error.
    pub code: String,
}

/// What the vault has of a system.
#[derive(Debug, Clone, Copy)]
pub struct AtVault {
    /// When the primary received the oldest complete point that the vault has not yet proven.
    pub oldest_missing: Option<Timestamp>,
    /// Generations that are there.
    pub generations: u32,
}

/// How long a picture that was changed under its name is an alarm, in seconds: the next night, whose run sees
/// nothing new, must not take it away before somebody has looked.
const REPLACED_S: i64 = 7 * 86_400;
/// By how much a file may be newer than the marker that says "finished", in seconds: marker and last file
/// are often written in the same breath.
const MARKER_SLACK_S: i64 = 60;
/// How many earlier points vouch for an instance.
const WITNESSES: usize = 10;

/// Everything that is wrong now.
pub fn judge(now: Timestamp, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if subject.enabled {
        findings.extend(absence(now, subject));
        findings.extend(hang(now, subject));
        findings.extend(stock(now, subject));
    }
    if let Some((new, before)) = subject.points.split_last() {
        findings.extend(nonsense(new, before, subject));
    }
    findings.extend(replaced(now, subject));
    findings
}

impl Subject<'_> {
    fn finding(&self, code: &str, severity: Severity, action: &str) -> Finding {
        Finding::new(code, severity, action).of(self.system)
    }

    /// The due time that a point belongs to.
    fn due_of(&self, taken: &Taken) -> Timestamp {
        self.timetable.last(later(taken.received, PUNCTUAL_S)).unwrap_or(taken.received)
    }

    /// Whether a point answers for a due time. A stock client may be a little ahead of our clock.
    fn answers(taken: &Taken, due: Timestamp) -> bool {
        taken.received >= later(due, -PUNCTUAL_S)
    }
}

/// No complete restore point by the deadline.
fn absence(now: Timestamp, subject: &Subject<'_>) -> Option<Finding> {
    let newest_failure = subject
        .failed
        .as_ref()
        .filter(|broken| subject.points.last().is_none_or(|taken| taken.received < broken.ended));
    let due = subject.timetable.last_owed(now).filter(|due| *due >= subject.since);
    // An incomplete point is not absence; it is reported by its own name.
    let owed = due.filter(|due| !subject.points.iter().any(|taken| Subject::answers(taken, *due)));
    let Some(due) = owed else {
        let broken = newest_failure?;
        return Some(
            subject
                .finding("judge.failed", Severity::Warning, "see-error")
                .with("error", broken.code.as_str())
                .with("ended", broken.ended)
                .seen_in(broken.run),
        );
    };
    let found = match newest_failure.filter(|broken| broken.ended >= due) {
        Some(broken) => subject
            .finding("judge.failed", Severity::Alarm, "see-error")
            .with("error", broken.code.as_str())
            .with("ended", broken.ended)
            .seen_in(broken.run),
        None => subject.finding("judge.missed", Severity::Alarm, "check-job"),
    };
    let found = found.with("due", due).with("deadline", subject.timetable.deadline(due));
    Some(match subject.points.iter().rev().find(|taken| taken.complete) {
        Some(last) => found.with("last", last.received).seen_in(last.sequence),
        None => found,
    })
}

/// A job that comes no further.
fn hang(now: Timestamp, subject: &Subject<'_>) -> Option<Finding> {
    let working = subject.running.as_ref()?;
    let still = now.duration_since(working.progress.max(working.started)).as_secs();
    (u64::try_from(still).unwrap_or(0) > subject.expect.silence_s).then(|| {
        subject
            .finding("judge.hangs", Severity::Alarm, "stop-job")
            .with("phase", working.phase.as_str())
            .with("silence", Value::Seconds(still))
            .seen_in(working.run)
    })
}

/// Something was changed that never changes.
fn replaced(now: Timestamp, subject: &Subject<'_>) -> Option<Finding> {
    let recent = |taken: &&Taken| taken.facts.replaced > 0 && taken.received >= later(now, -REPLACED_S);
    let newest = subject.points.iter().rev().find(recent)?;
    let all: u64 = subject.points.iter().filter(recent).map(|taken| taken.facts.replaced).sum();
    Some(
        subject
            .finding("judge.replaced", Severity::Alarm, "check-replaced")
            .with("items", number(all))
            .with("received", newest.received)
            .seen_in(newest.sequence),
    )
}

/// Too few generations, or a vault that lags behind.
fn stock(now: Timestamp, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let floor = subject.data.floor();
    let days = now.duration_since(subject.since).as_hours() / 24;
    // A system needs as many nights as the floor asks for, and one to spare, before it can fall below it.
    let old_enough = days > i64::from(floor) + 1;
    let mut short = |place: &str, there: u32| {
        if old_enough && there < floor {
            findings.push(
                subject
                    .finding("judge.few-generations", Severity::Warning, "check-retention")
                    .about(place)
                    .with("place", place)
                    .with("there", Value::Number(i64::from(there)))
                    .with("floor", Value::Number(i64::from(floor))),
            );
        }
    };
    short("primary", subject.generations);
    if let Some(vault) = subject.vault {
        short("vault", vault.generations);
        if let Some(since) = vault.oldest_missing {
            let lag = now.duration_since(since).as_secs();
            if u64::try_from(lag).unwrap_or(0) > subject.expect.vault_lag_s {
                findings.push(
                    subject
                        .finding("judge.vault-behind", Severity::Alarm, "check-window")
                        .with("since", since)
                        .with("lag", Value::Seconds(lag)),
                );
            }
        }
    }
    findings
}

/// The newest point is not what it claims to be.
fn nonsense(new: &Taken, before: &[Taken], subject: &Subject<'_>) -> Vec<Finding> {
    let (facts, expect) = (&new.facts, subject.expect);
    let mut findings = Vec::new();
    let say = |code: &str, severity: Severity, action: &str| {
        subject.finding(code, severity, action).with("received", new.received).seen_in(new.sequence)
    };
    if facts.faults > expect.accepted_faults || (!new.complete && facts.faults == 0) {
        findings
            .push(say("judge.incomplete", Severity::Alarm, "see-unread").with("items", number(facts.faults)));
    }
    if (!facts.size_untold && facts.bytes < expect.min_bytes) || facts.files < expect.min_files {
        findings.push(
            say("judge.empty", Severity::Alarm, "check-dump")
                .with("bytes", Value::Bytes(facts.bytes))
                .with("files", number(facts.files)),
        );
    } else if let Some(why) = &facts.truncated {
        findings.push(
            say("judge.truncated", Severity::Alarm, "check-dump")
                .with("why", why.as_str())
                .with("bytes", Value::Bytes(facts.bytes)),
        );
    } else if facts.size_untold {
        // Only where a size can be expected: one is demanded, or most of the last nights told one.
        let last = before.iter().rev().take(WITNESSES);
        let told = last.clone().filter(|old| old.facts.bytes > 0).count();
        if expect.min_bytes > 1 || told * 2 > last.count() {
            findings.push(say("judge.size-untold", Severity::Warning, "check-dump"));
        }
    } else if let Some(usual) = usual(before, new, expect, subject.calendar, subject.timetable.zone())
        && (facts.bytes as f64) < usual.limit
    {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size in bytes")]
        let median = usual.median.round() as u64;
        findings.push(
            say("judge.shrunk", Severity::Alarm, "check-or-accept")
                .with("bytes", Value::Bytes(facts.bytes))
                .with("usual", Value::Bytes(median)),
        );
    }
    // Two points of one due time are a repeated run and say nothing about the vendor's dump; the yardstick
    // is the last point of an earlier one.
    let due = subject.due_of(new);
    let earlier = before.iter().rev().find(|old| subject.due_of(old) != due);
    if let Some(old) = earlier.filter(|old| same_again(old, new, subject)) {
        findings.push(
            say("judge.same-again", Severity::Alarm, "check-dump")
                .with("first", old.received)
                .seen_in(old.sequence),
        );
    }
    if let (Some(seen), Some(expected)) = (&facts.identity, known_identity(before, expect))
        && *seen != expected
    {
        findings.push(
            say("judge.wrong-instance", Severity::Alarm, "check-instance")
                .with("seen", seen.as_str())
                .with("expected", expected),
        );
    }
    let written = facts.marker.as_ref().and_then(|marker| marker.written);
    let after = written.zip(facts.newest).filter(|(w, newest)| *newest > later(*w, MARKER_SLACK_S));
    if let Some((written, newest)) = after {
        findings.push(
            say("judge.marker-early", Severity::Alarm, "tell-vendor")
                .with("marker", written)
                .with("newest", newest),
        );
    } else if facts.moved > 0 {
        let (code, severity, action) = match facts.marker {
            Some(_) => ("judge.marker-early", Severity::Alarm, "tell-vendor"),
            None => ("judge.unsettled", Severity::Warning, "check-dump"),
        };
        findings.push(say(code, severity, action).with("moved", number(facts.moved)));
    }
    findings
}

/// Whether `new` is `old` once more. A marker that was written anew shows that the vendor's job ran; then
/// equal content on a rest day is honest.
fn same_again(old: &Taken, new: &Taken, subject: &Subject<'_>) -> bool {
    if let (Some(a), Some(b)) = (&old.facts.marker, &new.facts.marker)
        && ((a.written.is_some() && a.written == b.written) || (a.digest.is_some() && a.digest == b.digest))
    {
        return true;
    }
    if !subject.expect.changes_daily {
        return false;
    }
    let same = match (&old.facts.digest, &new.facts.digest) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    };
    let zone = subject.timetable.zone();
    let rested =
        subject.expect.rests_on_weekends && subject.calendar.rested_between(old.received, new.received, zone);
    same && !rested
}

/// The instance that we expect: the register's, else the one that most of the last points showed.
fn known_identity(before: &[Taken], expect: &Expectations) -> Option<String> {
    if let Some(identity) = &expect.identity {
        return Some(identity.clone());
    }
    let mut seen: Vec<(&String, u32)> = Vec::new();
    for identity in before.iter().rev().filter_map(|taken| taken.facts.identity.as_ref()).take(WITNESSES) {
        match seen.iter_mut().find(|(known, _)| *known == identity) {
            Some((_, count)) => *count += 1,
            None => seen.push((identity, 1)),
        }
    }
    seen.into_iter().max_by_key(|(_, count)| *count).map(|(identity, _)| identity.clone())
}

fn number(count: u64) -> Value {
    Value::Number(i64::try_from(count).unwrap_or(i64::MAX))
}
