//! What another product says in words, by mail or syslog, and what may be believed of it.
//!
//! A system's entry names who may speak for it: a host, for mail a sender, and the product whose sentences are
//! known, or sentences of its own. A sentence has to fit as a whole; where several fit, the worst counts. What
//! fits nothing, is not of today, or came by a way on which anybody can pretend to be the host, is never a
//! success: it is told as something that could not be used, and the judge goes on waiting.
//!
//! **Invariant:** pure; a success is made only out of a declared sentence from a declared host.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kuramori_model::{
    foreign::{FORMAT, JobResult, JobState},
    ids::SystemId,
};
use serde::{Deserialize, Serialize};

use crate::config::Product;
pub use crate::when::When;

/// A message may be so old: mail waits in queues.
const OLD: SignedDuration = SignedDuration::from_hours(24);
/// And so far ahead of our clock.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);
/// Characters of a message that are kept.
const KEPT: usize = 500;

/// The way on which something came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Mail to our own port.
    Mail,
    /// Syslog over TCP.
    SyslogTcp,
    /// Syslog over UDP: anybody on the line can put any address into it.
    SyslogUdp,
}

impl By {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::SyslogTcp => "syslog-tcp",
            Self::SyslogUdp => "syslog-udp",
        }
    }
}

/// Who may speak for a system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hear {
    /// On which way.
    pub by: By,
    /// From which address.
    pub host: IpAddr,
    /// Mail only: the sender's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Only about this job of the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Sentences beside those that are known of the product.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sentences: Vec<Sentence>,
    /// Syslog only: the time zone of the host's clock, if it is not the server's. The older form of syslog does not
    /// say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Believe a success that came over UDP. Whoever reaches the port can forge it.
    #[serde(default)]
    pub unproven: bool,
}

/// A sentence and what it means. `{job}` takes the job's name, `{*}` anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentence {
    /// `success`, `warning` or `failed`.
    pub means: JobState,
    /// The whole subject, or the whole message.
    pub text: String,
}

/// Something that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// How.
    pub by: By,
    /// From where.
    pub host: IpAddr,
    /// Mail's sender.
    pub from: Option<String>,
    /// When it says that it was sent.
    pub at: When,
    /// The subject, or the message.
    pub head: String,
    /// The rest of a mail.
    pub body: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It is not about this system, or not from anybody who may speak for it.
    NotOurs,
    /// It is from somebody who may, and cannot be used.
    Unusable(String),
    /// A result.
    Result(Box<JobResult>),
}

/// The sentences that are known of a product, in English and Japanese.
const KNOWN: &[(Product, JobState, &str)] = &[
    // Subjects of its mails.
    (Product::Veeam, JobState::Success, "[Success] {job} ({*})"),
    (Product::Veeam, JobState::Success, "[Success] {job}"),
    (Product::Veeam, JobState::Warning, "[Warning] {job} ({*}){*}"),
    (Product::Veeam, JobState::Warning, "[Warning] {job}"),
    (Product::Veeam, JobState::Failed, "[Failed] {job} ({*}){*}"),
    (Product::Veeam, JobState::Failed, "[Failed] {job}"),
    (Product::Veeam, JobState::Success, "[成功] {job} ({*})"),
    (Product::Veeam, JobState::Success, "[成功] {job}"),
    (Product::Veeam, JobState::Warning, "[警告] {job} ({*}){*}"),
    (Product::Veeam, JobState::Warning, "[警告] {job}"),
    (Product::Veeam, JobState::Failed, "[失敗] {job} ({*}){*}"),
    (Product::Veeam, JobState::Failed, "[失敗] {job}"),
    // Its events, as they are sent on by syslog.
    (Product::Veeam, JobState::Success, "{*}ackup job '{job}' finished with Success{*}"),
    (Product::Veeam, JobState::Warning, "{*}ackup job '{job}' finished with Warning{*}"),
    (Product::Veeam, JobState::Failed, "{*}ackup job '{job}' finished with Failed{*}"),
    (Product::Arcserve, JobState::Success, "{*}Backup Job{*}{job} Finished"),
    (Product::Arcserve, JobState::Success, "{*}Job Completed Successfully{*}"),
    (Product::Arcserve, JobState::Failed, "{*}Job Failed{*}"),
    (Product::Arcserve, JobState::Failed, "{*}Job Incomplete{*}"),
    (Product::Arcserve, JobState::Failed, "{*}Job Canceled{*}"),
    (Product::Arcserve, JobState::Success, "{*}ジョブは正常に完了しました{*}"),
    (Product::Arcserve, JobState::Failed, "{*}ジョブは失敗しました{*}"),
    (Product::Arcserve, JobState::Failed, "{*}ジョブは未完了です{*}"),
    (Product::Arcserve, JobState::Failed, "{*}ジョブはキャンセルされました{*}"),
    // Events 4, 14, 5 and others of its log.
    (
        Product::WindowsServerBackup,
        JobState::Success,
        "{*}The backup operation has finished successfully.{*}",
    ),
    (Product::WindowsServerBackup, JobState::Success, "{*}バックアップ操作が正常に終了しました。{*}"),
    (
        Product::WindowsServerBackup,
        JobState::Failed,
        "{*}The backup operation that started at {*} has failed{*}",
    ),
    (Product::WindowsServerBackup, JobState::Failed, "{*}に開始したバックアップ操作は失敗しました{*}"),
    (Product::WindowsServerBackup, JobState::Failed, "{*}Backup started at {*} failed{*}"),
    (Product::WindowsServerBackup, JobState::Failed, "{*}バックアップに失敗しました{*}"),
];

/// Words behind which the products' mails have the size that was written.
const SIZES: &[&str] = &[
    "Backup size",
    "バックアップ サイズ",
    "バックアップサイズ",
    "Total size",
    "合計サイズ",
    "Data Size",
    "データ サイズ",
    "データサイズ",
];

/// How bad a state is.
const fn weight(state: JobState) -> u8 {
    match state {
        JobState::Request => 0,
        JobState::Success => 1,
        JobState::Warning => 2,
        JobState::Failed => 3,
    }
}

/// Whether a sentence fits a whole text; gives the job's name, empty if the sentence has none.
pub fn fits(sentence: &str, text: &str) -> Option<String> {
    // Literal, hole, literal, hole …: each literal is looked for behind the one before; the first has to begin
    // the text and the last to end it.
    let mut parts = Vec::new();
    let mut rest = sentence;
    let mut hole = None;
    loop {
        let next = ["{job}", "{*}"].into_iter().filter_map(|mark| rest.find(mark).map(|at| (at, mark))).min();
        let Some((at, mark)) = next else {
            parts.push((hole, rest));
            break;
        };
        parts.push((hole, &rest[..at]));
        hole = Some(mark);
        rest = &rest[at + mark.len()..];
    }
    let (mut job, mut left) = (String::new(), text);
    let count = parts.len();
    for (number, (hole, literal)) in parts.into_iter().enumerate() {
        let last = number + 1 == count;
        let at = match hole {
            None => left.starts_with(literal).then_some(0)?,
            Some(_) if last => left.ends_with(literal).then(|| left.len().checked_sub(literal.len()))??,
            Some(_) => left.find(literal)?,
        };
        if hole == Some("{job}") {
            let name = left[..at].trim();
            if name.is_empty() {
                return None;
            }
            name.clone_into(&mut job);
        }
        left = &left[at + literal.len()..];
    }
    left.is_empty().then_some(job)
}

/// Hears a message for one system. `zone` is the server's own.
pub fn hear(
    system: &SystemId,
    product: Product,
    hears: &[Hear],
    said: &Said,
    now: Timestamp,
    zone: &TimeZone,
) -> Heard {
    let sender = |hear: &&Hear| {
        hear.by == said.by
            && hear.host == said.host
            && (hear.by != By::Mail
                || hear.from.as_ref().is_some_and(|from| {
                    said.from.as_ref().is_some_and(|sender| sender.eq_ignore_ascii_case(from))
                }))
    };
    let hears: Vec<&Hear> = hears.iter().filter(sender).collect();
    if hears.is_empty() {
        return Heard::NotOurs;
    }
    let head = said.head.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut best: Option<(JobState, String, &Hear)> = None;
    let mut others = false;
    for hear in &hears {
        let own = hear.sentences.iter().map(|sentence| (sentence.means, sentence.text.as_str()));
        let known = KNOWN.iter().filter(|(of, ..)| *of == product).map(|(_, means, text)| (*means, *text));
        for (means, text) in own.chain(known) {
            let Some(job) = fits(text, &head) else { continue };
            // A sentence that has no job in it is about the only one that there is.
            if hear.job.as_ref().is_some_and(|only| !job.is_empty() && *only != job) {
                others = true;
                continue;
            }
            let job = hear.job.clone().unwrap_or(job);
            if best.as_ref().is_none_or(|(state, ..)| weight(means) > weight(*state)) {
                best = Some((means, job, hear));
            }
        }
    }
    let Some((state, job, by)) = best else {
        let why = || format!("no sentence that is known fits `{}`", clip(&head, 80));
        return if others { Heard::NotOurs } else { Heard::Unusable(why()) };
    };
    if state == JobState::Request {
        return Heard::Unusable("a wish for the gate does not come on this way".to_owned());
    }
    let theirs = by.zone.as_ref().and_then(|name| TimeZone::get(name).ok());
    let ended = match said.at.instant(now, theirs.as_ref().unwrap_or(zone)) {
        Some(ended) => ended,
        // Bad news of an unknown day costs a look; good news of an unknown day may be last week's.
        None if state == JobState::Failed => now,
        None => return Heard::Unusable("it does not say of which time it is".to_owned()),
    };
    if now.duration_since(ended) > OLD || ended.duration_since(now) > AHEAD {
        return Heard::Unusable(format!("it is of {ended}, not of today"));
    }
    if said.by == By::SyslogUdp && state != JobState::Failed && !by.unproven {
        return Heard::Unusable("a success over UDP can be forged by anybody (`unproven` is off)".to_owned());
    }
    Heard::Result(Box::new(JobResult {
        format: FORMAT.to_owned(),
        system: system.clone(),
        product: product.as_str().to_owned(),
        job: clip(&job, KEPT),
        state,
        started: None,
        ended,
        bytes: size(&said.body),
        files: Vec::new(),
        message: clip(&head, KEPT),
    }))
}

fn clip(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// The size that stands behind one of the known words: `Backup size 1.2 GB`.
fn size(body: &str) -> Option<u64> {
    let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
    SIZES.iter().find_map(|word| {
        let rest = body.split_once(word)?.1.trim_start_matches([' ', ':', ':']);
        let digits: String =
            rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ',')).collect();
        let number: f64 = digits.replace(',', "").parse().ok()?;
        let unit: String =
            rest[digits.len()..].trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
        let factor = match unit.to_ascii_uppercase().as_str() {
            "B" | "BYTES" => 0,
            "KB" | "KIB" => 1,
            "MB" | "MIB" => 2,
            "GB" | "GIB" => 3,
            "TB" | "TIB" => 4,
            _ => return None,
        };
        let bytes = number * 1024f64.powi(factor);
        // Below 2^63 and not negative: the digits say so.
        (bytes < 9e18).then(|| format!("{bytes:.0}").parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(by: By, head: &str) -> Said {
        Said {
            by,
            host: "10.0.0.9".parse().unwrap(),
            from: Some("Veeam@hospital.example".into()),
            at: When::At("2026-11-22T02:00:00Z".parse().unwrap()),
            head: head.into(),
            body: "Backup size\n  1,234.5 GB\n".into(),
        }
    }

    fn may(by: By) -> Hear {
        Hear {
            by,
            host: "10.0.0.9".parse().unwrap(),
            from: Some("veeam@hospital.example".into()),
            job: None,
            sentences: Vec::new(),
            zone: None,
            unproven: false,
        }
    }

    fn tokyo() -> TimeZone {
        TimeZone::get("Asia/Tokyo").unwrap()
    }

    fn state(product: Product, hears: &[Hear], said: &Said) -> Result<(JobState, String), String> {
        let now = "2026-11-22T03:00:00Z".parse().unwrap();
        match hear(&SystemId::new("ward").unwrap(), product, hears, said, now, &tokyo()) {
            Heard::Result(result) => Ok((result.state, result.job)),
            Heard::Unusable(why) => Err(why),
            Heard::NotOurs => Err("not ours".into()),
        }
    }

    #[test]
    fn known_sentences_in_both_languages_are_understood_and_the_worst_counts() {
        let mail = [may(By::Mail)];
        for (product, head, means, job) in [
            (Product::Veeam, "[Success] Ward nightly (3 objects)", JobState::Success, "Ward nightly"),
            (Product::Veeam, "[Failed] Ward nightly (3 objects) 1 failed", JobState::Failed, "Ward nightly"),
            (Product::Veeam, "[警告] 病棟 夜間 (3 オブジェクト)", JobState::Warning, "病棟 夜間"),
            (Product::Veeam, "[成功] 病棟 夜間", JobState::Success, "病棟 夜間"),
            (Product::Arcserve, "ジョブは未完了です。(ジョブ=12)", JobState::Failed, ""),
            (Product::Arcserve, "Job Completed Successfully [JobNo 3]", JobState::Success, ""),
            (
                Product::WindowsServerBackup,
                "srv: The backup operation has finished successfully.",
                JobState::Success,
                "",
            ),
            (
                Product::WindowsServerBackup,
                "'2026-11-22' に開始したバックアップ操作は失敗しました。",
                JobState::Failed,
                "",
            ),
        ] {
            assert_eq!(state(product, &mail, &said(By::Mail, head)), Ok((means, job.to_owned())), "{head}");
        }
        let two = "Job Completed Successfully, then: Job Failed";
        assert_eq!(state(Product::Arcserve, &mail, &said(By::Mail, two)).unwrap().0, JobState::Failed);
        assert_eq!(size(&said(By::Mail, "").body), Some(1_325_534_281_728));
        assert_eq!(size("Total size: 12 parsecs"), None);
        let told = |by: By, body: &str| {
            let said = Said { body: body.into(), ..said(by, "[Success] Ward nightly (3 objects)") };
            let now = "2026-11-22T03:00:00Z".parse().unwrap();
            match hear(&SystemId::new("ward").unwrap(), Product::Veeam, &[may(by)], &said, now, &tokyo()) {
                Heard::Result(result) => result.told_bytes(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(By::Mail, "Backup size 0 B"), Some(0), "said to be empty");
        assert_eq!(told(By::Mail, "all is well"), None, "not told");
        assert_eq!(told(By::SyslogTcp, ""), None);
    }

    #[test]
    fn what_is_forged_old_unknown_or_unproven_is_never_a_success() {
        let good = "[Success] Ward nightly (3 objects)";
        let mail = [may(By::Mail)];
        for head in ["Re: [Success] Ward nightly (3 objects)", "Fwd: ok", "", "[Success]", "[Successful] x"] {
            let outcome = state(Product::Veeam, &mail, &said(By::Mail, head));
            assert!(outcome.as_ref().is_err_and(|why| why.starts_with("no sentence")), "{head}: {outcome:?}");
        }
        let spoken = |change: fn(&mut Said)| {
            let mut one = said(By::Mail, good);
            change(&mut one);
            state(Product::Veeam, &mail, &one)
        };
        assert!(spoken(|_| ()).is_ok());
        assert_eq!(spoken(|one| one.host = "10.0.0.8".parse().unwrap()), Err("not ours".into()));
        assert_eq!(spoken(|one| one.from = Some("else@hospital.example".into())), Err("not ours".into()));
        assert_eq!(spoken(|one| one.from = None), Err("not ours".into()));
        assert_eq!(spoken(|one| one.by = By::SyslogTcp), Err("not ours".into()));
        for at in ["2026-11-20T02:00:00Z", "2026-11-22T05:00:00Z"] {
            let mut one = said(By::Mail, good);
            one.at = When::At(at.parse().unwrap());
            assert!(state(Product::Veeam, &mail, &one).is_err_and(|why| why.contains("not of today")));
        }
        let event = "Backup job 'Ward' finished with Success.";
        let udp = [may(By::SyslogUdp)];
        assert!(
            state(Product::Veeam, &udp, &said(By::SyslogUdp, event)).is_err_and(|why| why.contains("UDP"))
        );
        let failed = event.replace("Success", "Failed");
        assert_eq!(state(Product::Veeam, &udp, &said(By::SyslogUdp, &failed)).unwrap().0, JobState::Failed);
        let believed = [Hear { unproven: true, ..may(By::SyslogUdp) }];
        assert!(state(Product::Veeam, &believed, &said(By::SyslogUdp, event)).is_ok());
        let only = [Hear { job: Some("Ward nightly".into()), ..may(By::Mail) }];
        assert_eq!(state(Product::Veeam, &only, &said(By::Mail, good)).unwrap().1, "Ward nightly");
        let other = said(By::Mail, "[Success] Kitchen (1 objects)");
        assert_eq!(state(Product::Veeam, &only, &other), Err("not ours".into()));
    }

    #[test]
    fn an_old_success_that_a_queue_gives_out_later_is_not_todays() {
        let hears = [may(By::SyslogTcp)];
        let event = "Backup job 'Ward' finished with Success.";
        // Sunday noon in Tokyo.
        let now: Timestamp = "2026-11-22T03:00:00Z".parse().unwrap();
        let heard = |hears: &[Hear], when: When, head: &str, now: Timestamp| {
            let one = Said { at: when, ..said(By::SyslogTcp, head) };
            match hear(&SystemId::new("ward").unwrap(), Product::Veeam, hears, &one, now, &tokyo()) {
                Heard::Result(result) => Ok((result.state, result.ended.to_string())),
                Heard::Unusable(why) => Err(why),
                Heard::NotOurs => Err("not ours".into()),
            }
        };
        let line =
            |text: &str| crate::syslog::read(format!("<13>{text} srv Veeam: {event}").as_bytes()).unwrap().at;
        // Each delivery of one message has the same end, so the second is nothing new.
        for later in [0, 1, 6] {
            let now = now + SignedDuration::from_hours(later);
            let good = heard(&hears, line("Nov 22 02:00:00"), event, now);
            assert_eq!(good, Ok((JobState::Success, "2026-11-21T17:00:00Z".into())), "{later}");
        }
        // Friday night's, delivered on Sunday; one that is ahead; one of a year ago.
        for old in ["Nov 20 23:00:00", "Nov 22 14:00:00", "Nov 21 11:59:00"] {
            let outcome = heard(&hears, line(old), event, now);
            assert!(outcome.as_ref().is_err_and(|why| why.contains("not of today")), "{old}: {outcome:?}");
        }
        // At the turn of the year.
        let new_year: Timestamp = "2026-12-31T15:30:00Z".parse().unwrap();
        let good = heard(&hears, line("Dec 31 23:50:00"), event, new_year);
        assert_eq!(good, Ok((JobState::Success, "2026-12-31T14:50:00Z".into())));
        // A host whose clock shows another zone.
        let utc = [Hear { zone: Some("UTC".into()), ..may(By::SyslogTcp) }];
        assert!(heard(&utc, line("Nov 22 02:59:00"), event, now).is_ok());
        assert!(heard(&utc, line("Nov 22 11:59:00"), event, now).is_err());
        // No time at all, by syslog or mail: never a success; a failure is told.
        assert!(heard(&hears, When::Unsaid, event, now).is_err_and(|why| why.contains("which time")));
        let failed = event.replace("Success", "Failed");
        assert_eq!(heard(&hears, When::Unsaid, &failed, now), Ok((JobState::Failed, now.to_string())));
        let undated = Said { at: When::Unsaid, ..said(By::Mail, "[Success] Ward nightly (3 objects)") };
        assert!(
            state(Product::Veeam, &[may(By::Mail)], &undated).is_err_and(|why| why.contains("which time"))
        );
    }

    #[test]
    fn a_sentence_of_ones_own_fits_as_a_whole() {
        assert_eq!(fits("dump of {job} done, {*} rows", "dump of eye done, 12 rows").as_deref(), Some("eye"));
        for text in ["dump of eye done, 12 rows!", "a dump of eye done, 1 rows", "dump of  done, 1 rows"] {
            assert_eq!(fits("dump of {job} done, {*} rows", text), None, "{text}");
        }
        assert_eq!(fits("{*}", "anything").as_deref(), Some(""));
        assert_eq!(fits("same", "same").as_deref(), Some(""));
        assert_eq!(fits("ab{*}ba", "aba"), None, "a letter counts once");
    }
}
