//! Rows of the screen's tables, worded in one language.

use jiff::{Timestamp, tz::TimeZone};
use kuramori_model::{class::Protection, finding::Severity, ids::SystemId, units::Bytes};

use super::{Piece, Wording, pieces, state_key};
use crate::{
    facts::{self, Notices, Report, Seen, State, System},
    lang::Catalogue,
};

/// A time as it is shown, and in full for titles and machines.
#[derive(Debug, Clone, Default)]
pub(super) struct Pair {
    pub(super) text: String,
    pub(super) exact: String,
    pub(super) machine: String,
    pub(super) age: String,
}

#[derive(Debug)]
pub(super) struct SystemRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) icon: &'static str,
    pub(super) class: &'static str,
    pub(super) order: String,
    pub(super) primary: PointCell,
    pub(super) vault: PointCell,
    pub(super) rpo: String,
    /// `met`, `missed` or nothing.
    pub(super) rpo_class: &'static str,
    pub(super) rpo_word: String,
    pub(super) drill: String,
    /// `met`, `missed` or nothing.
    pub(super) drill_class: &'static str,
    pub(super) drill_word: String,
    pub(super) last: String,
    pub(super) error: String,
    pub(super) next: String,
}

#[derive(Debug)]
pub(super) struct PointCell {
    pub(super) when: Option<Pair>,
    pub(super) detail: String,
    pub(super) bad: bool,
}

#[derive(Debug)]
pub(super) struct AlarmRow {
    pub(super) severity: &'static str,
    pub(super) icon: &'static str,
    pub(super) sentence: String,
    pub(super) action: Vec<Piece>,
    pub(super) since: String,
    pub(super) notice: String,
    pub(super) code: String,
}

#[derive(Debug)]
pub(super) struct Look {
    pub(super) what: String,
    pub(super) seen: &'static str,
    pub(super) icon: &'static str,
    pub(super) says: String,
    pub(super) source: String,
    pub(super) when: Option<Pair>,
}

#[derive(Debug)]
pub(super) struct WindowRow {
    pub(super) id: u64,
    pub(super) purpose: String,
    pub(super) opened: Pair,
    pub(super) commanded: String,
    pub(super) actuator: String,
    pub(super) probe: String,
    pub(super) bytes: String,
    pub(super) closed: &'static str,
    pub(super) closed_icon: &'static str,
    pub(super) outcome: String,
}

#[derive(Debug)]
pub(super) struct UpkeepRow {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) when: Pair,
    pub(super) plan: String,
    pub(super) class: &'static str,
    pub(super) result: String,
    pub(super) error: String,
}

#[derive(Debug)]
pub(super) struct RunRow {
    pub(super) number: String,
    pub(super) name: String,
    pub(super) phase: String,
    pub(super) percent: Option<u8>,
    pub(super) progress: String,
    pub(super) since: Pair,
}

/// What wording needs: language, zone, now, and the systems' names.
pub(super) struct Words<'a> {
    pub(super) t: &'a Catalogue,
    pub(super) zone: &'a TimeZone,
    pub(super) now: Timestamp,
    pub(super) systems: &'a [System],
}

impl Words<'_> {
    pub(super) fn when(&self, at: Timestamp) -> Pair {
        Pair {
            text: self.t.time(at, self.zone),
            exact: self.t.exact(at, self.zone),
            machine: at.to_string(),
            age: self.t.age(at, self.now),
        }
    }

    /// A system's name in the reader's language; its id where it is not registered.
    pub(super) fn name(&self, id: &SystemId) -> String {
        self.systems
            .iter()
            .find(|system| system.id == *id)
            .map_or(id.as_str(), |system| self.t.pick(&system.name_ja, &system.name_en))
            .to_owned()
    }

    fn span(&self, seconds: u64) -> String {
        self.t.span(std::time::Duration::from_secs(seconds))
    }

    fn point(&self, point: Option<&facts::Point>, none: &str) -> PointCell {
        match point {
            Some(point) => PointCell {
                when: Some(self.when(point.received)),
                detail: format!("{} · {}", point.bytes, self.t.say(&format!("verdict-{}", point.verdict))),
                bad: matches!(point.verdict.as_str(), "suspect" | "corrupt"),
            },
            None => PointCell { when: None, detail: self.t.say(none), bad: true },
        }
    }

    pub(super) fn system(&self, system: &System, reported: bool) -> SystemRow {
        let target = self.span(system.rpo_s);
        let (rpo, rpo_class, rpo_word) = match system.rpo_actual_s {
            Some(actual) => {
                let met = actual <= system.rpo_s;
                (
                    self.t.tell("rpo", &[("actual", self.span(actual).into()), ("target", target.into())]),
                    if met { "met" } else { "missed" },
                    self.t.say(if met { "rpo-met" } else { "rpo-missed" }),
                )
            }
            None => (self.t.tell("rpo-none", &[("target", target.into())]), "missed", String::new()),
        };
        let last = match &system.last_run {
            Some(run) => {
                let time = run.ended.map(|at| self.t.time(at, self.zone)).unwrap_or_default();
                self.t.tell(&format!("last-{}", run.state), &[("time", time.into())])
            }
            None => self.t.say("last-none"),
        };
        let (drill, drill_class, drill_word) = match &system.drill {
            None => (self.t.say("drill-none"), "missed", String::new()),
            Some(drill) => {
                let key = match (drill.passed, drill.met) {
                    (true, true) => "drill-passed",
                    (true, false) => "drill-slow",
                    (false, _) => "drill-failed",
                };
                let took = self.t.span(std::time::Duration::from_secs_f64(drill.rto_s.max(0.0)));
                let target = self.span(drill.target_s);
                (
                    self.t.tell(
                        "drill",
                        &[
                            ("time", self.t.time(drill.at, self.zone).into()),
                            ("word", self.t.say(key).into()),
                        ],
                    ),
                    if drill.met { "met" } else { "missed" },
                    self.t.tell("drill-rto", &[("took", took.into()), ("target", target.into())]),
                )
            }
        };
        SystemRow {
            drill,
            drill_class,
            drill_word,
            id: system.id.to_string(),
            name: self.name(&system.id),
            state: state_key(system.state),
            icon: match system.state {
                State::Ok => "✓",
                State::Late => "▲",
                State::Failed => "✕",
                State::Waiting => "…",
                State::Unregistered => "？",
            },
            class: match system.protection {
                Protection::Critical => "critical",
                Protection::Important => "important",
                Protection::Standard => "standard",
            },
            order: self.t.tell("order", &[("n", system.restore_order.into())]),
            primary: self.point(system.primary.as_ref(), "point-none"),
            vault: self.point(system.vault.as_ref(), if reported { "point-none" } else { "point-unknown" }),
            rpo,
            rpo_class,
            rpo_word,
            last,
            error: system
                .last_run
                .as_ref()
                .and_then(|run| {
                    Some(format!("[{}] {}", run.error_code.as_deref()?, run.error.as_deref().unwrap_or("")))
                })
                .unwrap_or_default(),
            next: system
                .next_due
                .map(|at| self.t.tell("next-due", &[("time", self.t.time(at, self.zone).into())]))
                .unwrap_or_default(),
        }
    }

    pub(super) fn alarms(&self, alarms: &[facts::Alarm], wording: Wording<'_>) -> Vec<AlarmRow> {
        alarms
            .iter()
            .map(|alarm| {
                let (sentence, action) = wording(&alarm.finding, self.t);
                let notice = match (&alarm.taken_by, alarm.notified) {
                    (Some(name), _) => self.t.tell("alarm-taken", &[("name", name.as_str().into())]),
                    (None, Some(at)) => {
                        self.t.tell("alarm-notified", &[("time", self.t.time(at, self.zone).into())])
                    }
                    (None, None) => self.t.say("alarm-owed"),
                };
                AlarmRow {
                    severity: alarm.finding.severity.as_str(),
                    icon: match alarm.finding.severity {
                        Severity::Info => "・",
                        Severity::Warning => "▲",
                        Severity::Alarm => "✕",
                    },
                    sentence,
                    action: pieces(&action),
                    since: self.t.tell(
                        "alarm-since",
                        &[
                            ("time", self.t.time(alarm.opened, self.zone).into()),
                            ("age", self.t.age(alarm.opened, self.now).into()),
                        ],
                    ),
                    notice,
                    code: alarm.finding.code.clone(),
                }
            })
            .collect()
    }

    fn look(&self, what: &str, look: Option<&facts::Look>) -> Look {
        let probe = what == "gate-probe";
        let what = self.t.say(what);
        let Some(look) = look else {
            return Look {
                what,
                seen: "unknown",
                icon: "？",
                says: self.t.say("gate-not-set"),
                source: String::new(),
                when: None,
            };
        };
        let seen = look.at(self.now);
        let (source, detail) = self.worded(probe, look);
        let says = match (seen, look.seen) {
            (Seen::Unknown, Seen::Closed | Seen::Open) => {
                self.t.tell("gate-stale", &[("detail", detail.into())])
            }
            _ => detail,
        };
        let (seen, icon) = match seen {
            Seen::Closed => ("closed", "■"),
            Seen::Open => ("open", "▷"),
            Seen::Unknown => ("unknown", "？"),
        };
        Look { what, seen, icon, says, source, when: Some(self.when(look.at)) }
    }

    /// Source and reading in the reader's language; figures and the words of standards stay as they are.
    fn worded(&self, probe: bool, look: &facts::Look) -> (String, String) {
        if !probe {
            let device = look.source.strip_prefix("SNMP ").unwrap_or(&look.source);
            return (self.t.tell("source-port", &[("device", device.into())]), look.detail.clone());
        }
        let detail = match look.seen {
            Seen::Closed => self.t.say("probe-silent"),
            Seen::Open => self.t.tell("probe-answered", &[("who", look.answered.join(", ").into())]),
            Seen::Unknown => look.detail.clone(),
        };
        (self.t.say("source-probe"), detail)
    }

    pub(super) fn upkeep(&self, upkeep: &facts::Upkeep) -> UpkeepRow {
        let system = self.systems.iter().find(|system| system.id.as_str() == upkeep.repository);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX).into();
        let bytes = |n: u64| Bytes(n).to_string().into();
        let plan = upkeep.plan.as_ref().map_or_else(
            || self.t.say("upkeep-unplanned"),
            |plan| {
                self.t.tell(
                    "upkeep-plan",
                    &[
                        ("packs", number(plan.remove_packs)),
                        ("bytes", bytes(plan.remove_bytes)),
                        ("repacked", number(plan.repack_packs)),
                        ("moved", bytes(plan.repack_bytes)),
                        ("share", bytes(plan.share_bytes)),
                        ("stays", bytes(plan.unused_kept_bytes)),
                    ],
                )
            },
        );
        let (class, result) = match (upkeep.state.as_str(), &upkeep.plan) {
            ("complete", Some(plan)) => {
                ("ok", self.t.tell("upkeep-freed", &[("bytes", bytes(plan.freed_bytes()))]))
            }
            ("cancelled", _) => ("waiting", self.t.say("upkeep-later")),
            _ => ("failed", self.t.say("upkeep-failed")),
        };
        UpkeepRow {
            name: system.map_or_else(
                || upkeep.repository.clone(),
                |system| self.t.pick(&system.name_ja, &system.name_en).to_owned(),
            ),
            id: upkeep.repository.clone(),
            when: self.when(upkeep.at),
            plan,
            class,
            result,
            error: match (&upkeep.error_code, &upkeep.error) {
                (Some(code), Some(error)) => format!("[{code}] {error}"),
                _ => String::new(),
            },
        }
    }

    pub(super) fn looks(&self, gate: &facts::Gate, report: Option<&Report>) -> Vec<Look> {
        let mut looks =
            vec![self.look("gate-probe", gate.probe.as_ref()), self.look("gate-port", gate.port.as_ref())];
        let what = self.t.say("gate-report");
        looks.push(match report {
            Some(report) => {
                let number = i64::try_from(report.number).unwrap_or(i64::MAX);
                let figures =
                    [("number", number.into()), ("time", self.t.clock(report.made, self.zone).into())];
                let (key, seen, icon) = match (report.verified, report.overdue(self.now)) {
                    (false, _) => ("report-forged", "open", "✕"),
                    (true, true) => ("report-late", "unknown", "？"),
                    (true, false) => ("report-verified", "closed", "✓"),
                };
                Look {
                    what,
                    seen,
                    icon,
                    says: self.t.tell(key, &figures),
                    source: report.vault.clone(),
                    when: Some(self.when(report.made)),
                }
            }
            None => Look {
                what,
                seen: "unknown",
                icon: "？",
                says: self.t.say("report-none"),
                source: String::new(),
                when: None,
            },
        });
        looks
    }

    fn seconds(&self, seconds: Option<f64>) -> String {
        match seconds {
            Some(seconds) => self.t.tell("seconds", &[("n", format!("{seconds:.1}").into())]),
            None => self.t.say("unknown"),
        }
    }

    pub(super) fn window(&self, window: &facts::Window) -> WindowRow {
        let purpose = match window.purpose.as_str() {
            known @ ("pull" | "restore" | "seed") => self.t.say(&format!("purpose-{known}")),
            other => other.to_owned(),
        };
        let (closed, closed_icon) = match window.closed_verified {
            Some(true) => ("verified", "✓"),
            Some(false) => ("unverified", "✕"),
            None => ("unknown", "？"),
        };
        WindowRow {
            id: window.id,
            purpose,
            opened: self.when(window.opened),
            commanded: self.seconds(window.commanded_s),
            actuator: self.seconds(window.actuator_s),
            probe: self.seconds(window.probe_s),
            bytes: window.bytes.to_string(),
            closed,
            closed_icon,
            outcome: window.outcome.clone(),
        }
    }

    pub(super) fn run(&self, run: &facts::Running) -> RunRow {
        let phase = match (run.state.as_str(), run.phase.as_str()) {
            ("queued", _) => self.t.say("run-queued"),
            (
                _,
                known @ ("connecting" | "waiting" | "looking" | "reading" | "finishing" | "committing"
                | "planning" | "freeing"),
            ) => self.t.say(&format!("phase-{known}")),
            _ => self.t.say("phase-other"),
        };
        let percent = run.percent();
        let items = i64::try_from(run.items).unwrap_or(i64::MAX);
        let progress = match (percent, run.bytes_total) {
            (Some(percent), Some(total)) => self.t.tell(
                "progress-bytes",
                &[
                    ("done", run.bytes.to_string().into()),
                    ("total", total.to_string().into()),
                    ("percent", percent.into()),
                ],
            ),
            _ => self
                .t
                .tell("progress-open", &[("done", run.bytes.to_string().into()), ("items", items.into())]),
        };
        RunRow {
            number: run.run.to_string(),
            name: self.name(&run.system),
            phase,
            percent,
            progress,
            since: self.when(run.since),
        }
    }

    /// Lines about the way to people: a class (`good`, `attention`, `danger`) and a sentence.
    pub(super) fn notices(&self, notices: &Notices) -> Vec<(&'static str, String)> {
        if !notices.mail {
            return vec![("attention", self.t.say("notices-none"))];
        }
        let mut lines = Vec::new();
        if notices.failing > 0 {
            let error = notices.last_error.clone().unwrap_or_default();
            let n = i64::try_from(notices.failing).unwrap_or(i64::MAX);
            lines.push((
                "danger",
                self.t.tell("notices-failing", &[("n", n.into()), ("error", error.into())]),
            ));
        } else {
            lines.push(("good", self.t.say("notices-good")));
        }
        lines.push(match notices.last_heartbeat {
            Some(at) => {
                ("", self.t.tell("notices-heartbeat", &[("time", self.t.time(at, self.zone).into())]))
            }
            None => ("", self.t.say("notices-no-heartbeat")),
        });
        lines
    }
}
