//! The first screen as HTML: facts in, one page out. Nothing is decided here, only worded.

mod rows;

use askama::Template;
use jiff::tz::TimeZone;

use crate::{
    facts::{Level, Seen, State, Status},
    lang::Catalogue,
};

use self::rows::{AlarmRow, Look, RunRow, SystemRow, UpkeepRow, WindowRow};

/// How a finding is worded: its sentence and its next action.
pub(crate) type Wording<'a> = &'a dyn Fn(&kuramori_model::finding::Finding, &Catalogue) -> (String, String);

/// The style sheet, served by itself so that the policy can forbid everything inline.
pub(crate) const STYLE: &str = include_str!("../../templates/style.css");
/// The script that renews the page's sections; the page works without it.
pub(crate) const SCRIPT: &str = include_str!("../../templates/live.js");
/// The icon in the browser's tab.
pub(crate) const ICON: &str = include_str!("../../templates/icon.svg");

#[derive(Debug, Template)]
#[template(path = "index.html")]
struct Page<'a> {
    t: &'a Catalogue,
    hospital: &'a str,
    updated: String,
    stale: String,
    level: &'static str,
    icon: &'static str,
    sentence: String,
    from: String,
    answer: String,
    cause: String,
    next: Vec<Piece>,
    alarms: Vec<AlarmRow>,
    systems: Vec<SystemRow>,
    gate: &'static str,
    gate_icon: &'static str,
    gate_detail: String,
    looks: Vec<Look>,
    windows: Vec<WindowRow>,
    running: Vec<RunRow>,
    upkeep: Vec<UpkeepRow>,
    notices: Vec<(&'static str, String)>,
    footer: Vec<Piece>,
}

/// A piece of a sentence: plain, or a command to type.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    text: String,
    code: bool,
}

/// Renders the first screen.
pub(crate) fn render(
    status: &Status,
    t: &Catalogue,
    zone: &TimeZone,
    wording: Wording<'_>,
) -> Result<String, askama::Error> {
    let words = rows::Words { t, zone, now: status.at, systems: &status.systems };
    let verdict = &status.verdict;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX).into();
    let sentence = match (verdict.recoverable, verdict.total) {
        (0, _) => t.say("verdict-nothing"),
        (some, total) if some == total => t.tell("verdict-all", &[("total", count(total))]),
        (some, total) => t.tell("verdict-some", &[("count", count(some)), ("total", count(total))]),
    };
    let from = match (verdict.from, &verdict.oldest) {
        (Some(from), Some(oldest)) => t.tell(
            "verdict-from",
            &[
                ("time", t.time(from, zone).into()),
                ("age", t.age(from, status.at).into()),
                ("system", words.name(oldest).into()),
            ],
        ),
        _ => String::new(),
    };
    let named = verdict.system.as_ref().map(|id| words.name(id)).unwrap_or_default();
    let id = verdict.system.as_ref().map_or("", |id| id.as_str());
    let figures = [("system", named.into()), ("id", id.into())];
    let gate = match status.gate.seen(status.at) {
        Seen::Closed => "closed",
        Seen::Open => "open",
        Seen::Unknown => "unknown",
    };
    let page = Page {
        t,
        hospital: &status.hospital,
        updated: t.tell("updated", &[("time", t.exact(status.at, zone).into())]),
        stale: t.tell("stale-page", &[("time", t.exact(status.at, zone).into())]),
        level: match verdict.level {
            Level::Good => "good",
            Level::Attention => "attention",
            Level::Danger => "danger",
        },
        icon: match verdict.level {
            Level::Good => "✓",
            Level::Attention => "▲",
            Level::Danger => "✕",
        },
        sentence,
        from,
        answer: status.answer.sentence(
            match t.language {
                crate::config::Language::Ja => kuramori_report::Language::Ja,
                crate::config::Language::En => kuramori_report::Language::En,
            },
            zone,
        ),
        cause: t.tell(&format!("cause-{}", verdict.cause.key()), &figures),
        next: pieces(&t.tell(&format!("next-{}", verdict.cause.key()), &figures)),
        alarms: words.alarms(&status.alarms, wording),
        systems: status.systems.iter().map(|system| words.system(system, status.report.is_some())).collect(),
        gate,
        gate_icon: match gate {
            "closed" => "■",
            "open" => "▷",
            _ => "？",
        },
        gate_detail: t.say(&format!("gate-{gate}-detail")),
        looks: words.looks(&status.gate, status.report.as_ref()),
        windows: status.windows.iter().map(|window| words.window(window)).collect(),
        running: status.running.iter().map(|run| words.run(run)).collect(),
        upkeep: status.upkeep.iter().map(|upkeep| words.upkeep(upkeep)).collect(),
        notices: words.notices(&status.notices),
        footer: pieces(&t.say("read-only")),
    };
    page.render()
}

/// The same screen as one file for the archive: its style inside, no script, no links to elsewhere.
pub(crate) fn standalone(
    status: &Status,
    t: &Catalogue,
    zone: &TimeZone,
    wording: Wording<'_>,
) -> Result<String, askama::Error> {
    let html = render(status, t, zone, wording)?;
    let head = "<link rel=\"icon\" href=\"/icon.svg\">\n<link rel=\"stylesheet\" href=\"/style.css\">\n\
                <noscript><meta http-equiv=\"refresh\" content=\"30\"></noscript>\n<script src=\"/live.js\" defer></script>";
    Ok(html.replace(head, &format!("<style>\n{STYLE}</style>")))
}

/// Cuts at backticks, so that commands stand out.
fn pieces(text: &str) -> Vec<Piece> {
    text.split('`')
        .enumerate()
        .map(|(at, text)| Piece { text: text.to_owned(), code: at % 2 == 1 })
        .filter(|piece| !piece.text.is_empty())
        .collect()
}

const fn state_key(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Late => "late",
        State::Failed => "failed",
        State::Waiting => "waiting",
        State::Unregistered => "unregistered",
    }
}
