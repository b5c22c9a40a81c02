//! From counts to a verdict.

use crate::{
    inspect::Inspection,
    policy::LIMITS,
    profile::{Open, Profile},
    report::{Evidence, Figures, Hit, Report, Rule, Verdict},
    tally::{Tally, Weight},
};

/// Everything that is weighed.
struct Scale<'a> {
    profile: &'a Profile,
    tally: &'a Tally,
    hits: Vec<Hit>,
}

/// Judges, and makes the profile that is to be stored.
pub(crate) fn judge(
    job: &Inspection<'_>,
    mut tally: Tally,
    mut learning: Profile,
    spent: bool,
) -> (Report, Profile) {
    let profile = job.profile;
    let evidence = tally.finish();
    let came = tally.figures.added + tally.figures.moved;
    let gone = tally.figures.removed + tally.figures.moved;
    tally.figures.files = (profile.files + came).saturating_sub(gone);
    let mut scale = Scale { profile, tally: &tally, hits: Vec::new() };
    scale.hard();
    scale.turned();
    scale.new_ones();
    scale.behaviour();
    let sum = scale.little_by_little();
    let suspect = scale.hits.iter().any(|hit| hit.decides);
    let corrupt = scale.cut();
    scale.support();
    let mut hits = scale.hits;
    hits.sort_by_key(|hit| (!hit.decides, hit.rule));
    let verdict = if suspect {
        Some(Verdict::Suspect)
    } else if spent {
        None
    } else if corrupt {
        Some(Verdict::Corrupt)
    } else {
        Some(Verdict::Clean)
    };
    let mut evidence: Vec<Evidence> = evidence.into_iter().map(|(_, evidence)| evidence).collect();
    let since = if sum > 0.0 { profile.since.or(Some(job.point.sequence)) } else { None };
    let previous = job.previous.map(|point| point.sequence);
    let by_sum = hits.iter().any(|hit| hit.rule == Rule::D8 && hit.decides);
    if by_sum {
        evidence.extend(profile.open.iter().map(|open| Evidence {
            path: open.path.clone(),
            rule: Rule::D8,
            offset: None,
            why: open.why.clone(),
            before: None,
            now: None,
            last_good: open.last_good,
            first_bad: open.first_bad,
        }));
    }
    let bad = verdict.is_some_and(|verdict| verdict != Verdict::Clean);
    let first_bad = evidence.iter().map(|one| one.first_bad).min().or(Some(job.point.sequence));
    let first_bad = if by_sum { first_bad.min(since) } else { first_bad };
    let last_good = match (by_sum, first_bad) {
        (true, Some(first)) => {
            profile.before.filter(|before| *before < first).or(previous.filter(|p| *p < first))
        }
        (false, Some(first)) if previous.is_none_or(|previous| previous < first) => previous,
        (false, _) => profile.before,
        (true, None) => None,
    };
    let report = Report {
        verdict,
        point: job.point.sequence,
        previous,
        oldest: job.oldest.map(|point| point.sequence),
        evidence_total: tally.evidence_total,
        last_good: last_good.filter(|_| bad),
        first_bad: first_bad.filter(|_| bad),
        figures: tally.figures,
        evidence,
        hits,
    };
    if verdict != Some(Verdict::Clean) {
        return (report, profile.clone());
    }
    learning.points += 1;
    learning.files = tally.figures.files;
    learning.sum = sum;
    if since.is_none() {
        (learning.before, learning.open) = (Some(job.point.sequence), Vec::new());
    }
    learning.since = since;
    for one in report.evidence.iter().filter(|one| one.before.is_some()) {
        learning.suspect(Open {
            path: one.path.clone(),
            last_good: one.last_good,
            first_bad: one.first_bad,
            why: one.why.clone(),
        });
    }
    if job.previous.is_some() {
        learning.remember(tally.figures);
    }
    (report, learning)
}

impl Scale<'_> {
    fn hit(&mut self, rule: Rule, decides: bool, count: u64, why: impl Into<String>) {
        self.hits.push(Hit { rule, decides, count, why: why.into() });
    }

    /// What must never happen.
    fn hard(&mut self) {
        for rule in [Rule::D1, Rule::D6, Rule::D8] {
            if let Some(count) = self.tally.signs.get(&(Weight::Hard, rule)).copied() {
                let why = match rule {
                    Rule::D6 => "planted files were touched",
                    _ => "objects that never change have changed or are gone",
                };
                self.hit(rule, true, count, why);
            }
        }
    }

    /// Files that were right before. One is enough where little changes; where much does, a share.
    fn turned(&mut self) {
        let examined = self.tally.figures.read;
        let (lost, broken) = (self.tally.of(Weight::Lost), self.tally.of(Weight::Broken));
        let by_share = |least: u64| {
            // Rounded up: a share of few files is at least one more than chance brings.
            let share = (examined as f64 * LIMITS.share).ceil();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, capped")]
            let share = share.min(LIMITS.enough as f64) as u64;
            share.max(least)
        };
        let need_lost = by_share(if examined <= LIMITS.single_up_to { 1 } else { 2 });
        let need_all = by_share(if examined <= LIMITS.broken_single_up_to { 1 } else { 2 });
        let decides = lost >= need_lost || lost + broken >= need_all;
        for rule in [Rule::D2, Rule::D3, Rule::D4] {
            let of = |weight| self.tally.signs.get(&(weight, rule)).copied().unwrap_or(0);
            let count = of(Weight::Lost) + of(Weight::Broken);
            if count > 0 {
                let why = match rule {
                    Rule::D2 => "files that were right are broken inside",
                    Rule::D3 => "files are no longer what they were",
                    _ => "text holds cipher text",
                };
                self.hit(rule, decides, count, why);
            }
        }
    }

    /// New files that are not what they should be, against how often that happens in this system.
    fn new_ones(&mut self) {
        let wrong = self.tally.of(Weight::New);
        if wrong == 0 {
            return;
        }
        let (judged, flawed) = self
            .profile
            .groups
            .values()
            .fold((0, 0), |(judged, flawed), group| (judged + group.judged, flawed + group.flawed));
        let share = (flawed as f64 + 0.5) / (judged as f64 + 50.0);
        let expected = share * self.tally.figures.read as f64;
        let first = self.profile.points == 0;
        // Without anything to compare with, one file in twenty is what old archives bring.
        let decides = if first {
            wrong >= 5 && wrong * 20 > self.tally.figures.read
        } else {
            wrong >= 3 && poisson_tail(wrong, expected) < LIMITS.chance
        };
        self.hit(Rule::D2, decides, wrong, "new files are not what such files are");
    }

    fn behaviour(&mut self) {
        let figures = &self.tally.figures;
        if self.profile.points == 0 {
            return;
        }
        let known = self.profile.files.max(1);
        let learnt = self.profile.history.len() >= LIMITS.history;
        for (ending, count) in &self.tally.endings {
            // An ending that this system puts behind names every day is nothing new.
            let used = self.profile.group(ending).map_or(0, |group| group.appended.max(group.files / 2));
            let many = *count >= LIMITS.renames && *count as f64 >= known as f64 * LIMITS.renames_share;
            let most = *count >= 3 && *count * 2 > known;
            if learnt && (many || most) && *count > 3 * used {
                self.hits.push(Hit {
                    rule: Rule::D5,
                    decides: true,
                    count: *count,
                    why: format!("files were renamed to `.{ending}`, which this system did not do before"),
                });
            }
        }
        for (extension, count) in &self.tally.removed {
            let before = self.profile.group(extension).map_or(0, |group| group.files);
            if *count >= LIMITS.deletions && count * 2 > before {
                let why = format!("most files `.{extension}` were deleted");
                self.hits.push(Hit { rule: Rule::D5, decides: true, count: *count, why });
            }
        }
        if figures.removed >= LIMITS.renames && figures.removed * 2 > known {
            self.hits.push(Hit {
                rule: Rule::D5,
                decides: true,
                count: figures.removed,
                why: "most files were deleted".to_owned(),
            });
        }
        if self.profile.history.len() < LIMITS.history {
            return;
        }
        let least = if figures.rewritten * 2 > known { 3 } else { LIMITS.rewritten };
        if self.is_storm(figures.rewritten, least, |figures| figures.rewritten as f64) {
            let why = "files that no structure vouches for were rewritten as never before";
            self.hit(Rule::D5, true, figures.rewritten, why);
        }
        if self.is_storm(figures.quiet, LIMITS.quiet, |figures| figures.quiet as f64) {
            self.hit(Rule::D5, true, figures.quiet, "files changed without a new time of change");
        }
    }

    /// Far beyond the middle of the history.
    fn is_storm(&self, count: u64, least: u64, figure: impl Fn(&Figures) -> f64) -> bool {
        let (middle, distance) = self.profile.usual(figure);
        count >= least && count as f64 > 5.0 * (middle + 3.0 * distance) + 1.0
    }

    /// CUSUM over the files that turned; gives the new sum.
    fn little_by_little(&mut self) -> f64 {
        let turned = self.tally.of(Weight::Lost) + self.tally.of(Weight::Broken);
        let sum = (self.profile.sum + turned as f64 - LIMITS.slack).max(0.0);
        let sum = if self.profile.points == 0 { 0.0 } else { sum };
        if self.profile.sum > 0.0 && turned > 0 && sum >= LIMITS.sum {
            let count = self.profile.open.len() as u64 + turned;
            self.hit(Rule::D8, true, count, "little by little, too many files have gone bad");
        }
        sum
    }

    /// Whether so much is cut off that the point cannot be called whole.
    fn cut(&mut self) -> bool {
        let cut = self.tally.of(Weight::Cut);
        let examined = self.tally.figures.read.max(1) as f64;
        let corrupt = self.tally.dumps > 0 || cut >= LIMITS.cut && cut as f64 >= examined * LIMITS.cut_share;
        if cut > 0 {
            let why = if self.tally.dumps > 0 { "a dump is not complete" } else { "files are cut off" };
            // It decides, but about damage: the order of verdicts is the caller's.
            self.hit(Rule::D2, corrupt, cut, why);
        }
        corrupt
    }

    /// What supports and never decides.
    fn support(&mut self) {
        if self.tally.notes > 0 {
            self.hit(Rule::D7, false, self.tally.notes, "names that ransom notes have");
        }
        if self.profile.history.len() >= LIMITS.history {
            let new_bytes = self.tally.figures.new_bytes as f64;
            let (middle, distance) = self.profile.usual(|figures| figures.new_bytes as f64);
            if new_bytes > 3.0 * (middle + 3.0 * distance) + 65_536.0 {
                self.hit(Rule::D5, false, self.tally.figures.read, "far more bytes than usual are new");
            }
            let (burst, _) = self.profile.usual(|figures| figures.burst);
            if self.tally.figures.changed >= 50 && self.tally.figures.burst > 0.9 && burst < 0.5 {
                self.hit(
                    Rule::D5,
                    false,
                    self.tally.figures.changed,
                    "nearly all changes fall into ten minutes",
                );
            }
        }
    }
}

/// The chance of at least `count` events where `expected` are expected.
fn poisson_tail(count: u64, expected: f64) -> f64 {
    let mut term = (-expected).exp();
    let mut below = term;
    for number in 1..count.min(10_000) {
        term *= expected / number as f64;
        below += term;
    }
    (1.0 - below).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_poisson_distribution() {
        assert!((poisson_tail(1, 1.0) - 0.632_12).abs() < 1e-4);
        assert!((poisson_tail(3, 0.5) - 0.014_388).abs() < 1e-5);
        assert!(poisson_tail(3, 0.01) < 1e-6);
    }
}
