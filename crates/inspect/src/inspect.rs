//! The course of one inspection.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use kuramori_model::tree::TreePath;
use kuramori_repo::{
    Cancel, Error as RepoError, Indexed, Repository,
    format::{blob::BlobId, node::Node},
    progress::Progress,
};

use crate::{
    class::Class,
    content::Meter,
    diff::{Change, Walk},
    error::Result,
    file::{self, Facts},
    judge,
    pattern::Pattern,
    policy::Policy,
    profile::{Profile, extension},
    report::{Evidence, Report, Rule},
    structure::FlawKind,
    tally::{Tally, Weight, is_note},
};

/// Contents of files that went and came, remembered to find what only moved. Beyond, a move counts as gone.
const MOVES: usize = 1 << 20;

/// A restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its number in the receiver's order.
    pub sequence: u64,
    /// Its root folder.
    pub tree: BlobId,
}

/// What is to be inspected.
#[derive(Debug)]
pub struct Inspection<'a> {
    /// Where it lies; every blob is hashed as it is read.
    pub repository: &'a Repository<Indexed>,
    /// The new point.
    pub point: Point,
    /// The newest point that was found clean.
    pub previous: Option<Point>,
    /// The oldest clean point that is still kept.
    pub oldest: Option<Point>,
    /// What is normal there.
    pub profile: &'a Profile,
    /// What the hospital says.
    pub policy: &'a Policy,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Is told files and bytes.
    pub progress: &'a Progress,
}

impl Inspection<'_> {
    /// Inspects. Gives the report and the profile to store; after any verdict but clean it is the old one.
    ///
    /// # Errors
    /// [`crate::Error`]: then nothing is said about the point.
    pub fn run(&self) -> Result<(Report, Profile)> {
        let meter = Meter {
            repository: self.repository,
            cancel: self.cancel,
            progress: self.progress,
            left: std::cell::Cell::new(self.policy.read_limit.0),
        };
        let mut run = Run {
            job: self,
            meter: &meter,
            patterns: self.policy.patterns()?,
            tally: Tally::default(),
            learning: self.profile.clone(),
            moved: HashSet::new(),
            spent: false,
        };
        run.find_moves()?;
        run.differences()?;
        run.canaries()?;
        run.oldest()?;
        let budget = self.policy.read_limit.0;
        run.tally.figures.read_bytes = budget - meter.left.get();
        Ok(judge::judge(self, run.tally, run.learning, run.spent))
    }
}

struct Run<'a> {
    job: &'a Inspection<'a>,
    meter: &'a Meter<'a>,
    patterns: Vec<Pattern>,
    tally: Tally,
    learning: Profile,
    moved: HashSet<u64>,
    spent: bool,
}

fn digest(node: &Node) -> Option<u64> {
    if node.size == 0 {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    node.content.hash(&mut hasher);
    Some(hasher.finish())
}

impl<'a> Run<'a> {
    fn walk(&self) -> Walk<'a> {
        Walk { repository: self.job.repository, cancel: self.job.cancel, usual: &|_| false }
    }

    /// Files that went here and came there with the same content.
    fn find_moves(&mut self) -> Result<()> {
        let Some(previous) = self.job.previous else { return Ok(()) };
        let (mut gone, mut came) = (HashSet::new(), HashSet::new());
        self.walk().compare(Some(&previous.tree), Some(&self.job.point.tree), &mut |_, change| {
            match change {
                Change::Removed { old } if gone.len() < MOVES => gone.extend(digest(old)),
                Change::Added { new, .. } if came.len() < MOVES => came.extend(digest(new)),
                _ => {}
            }
            Ok(())
        })?;
        self.moved = gone.intersection(&came).copied().collect();
        Ok(())
    }

    fn differences(&mut self) -> Result<()> {
        let profile = self.job.profile;
        let usual = |name: &[u8]| profile.group(&extension(name)).is_some();
        let walk = Walk { usual: &usual, ..self.walk() };
        let previous = self.job.previous.map(|point| point.tree);
        walk.compare(previous.as_ref(), Some(&self.job.point.tree), &mut |path, change| {
            self.change(path, change)
        })
    }

    fn change(&mut self, path: &TreePath, change: Change<'_>) -> Result<()> {
        self.meter.progress.plan(1, 0);
        match change {
            Change::Added { new, like } => {
                if digest(new).is_some_and(|digest| self.moved.contains(&digest)) {
                    self.tally.figures.moved += 1;
                    self.learning.group_mut(&extension(path.as_bytes())).files += 1;
                } else {
                    self.tally.figures.added += 1;
                    self.tally.notes += u64::from(is_note(path.as_bytes()));
                    self.came(path, new, like)?;
                }
            }
            Change::Removed { old } => {
                let group = self.learning.group_mut(&extension(path.as_bytes()));
                group.files = group.files.saturating_sub(1);
                if !digest(old).is_some_and(|digest| self.moved.contains(&digest)) {
                    self.tally.figures.removed += 1;
                    Tally::count(&mut self.tally.removed, path.as_bytes());
                    self.vanished(path, old)?;
                }
            }
            Change::Changed { old, new } => {
                self.tally.figures.changed += 1;
                let quiet = old.size == new.size && old.mtime == new.mtime;
                self.tally.figures.quiet += u64::from(quiet);
                self.tally.burst(new.mtime.seconds);
                self.turned(path, path, old, new)?;
            }
            Change::Renamed { old, old_path, new } => {
                self.tally.figures.renamed += 1;
                let (before, now) = (extension(&old.name), extension(&new.name));
                let group = self.learning.group_mut(&before);
                group.files = group.files.saturating_sub(1);
                if before != now {
                    Tally::count(&mut self.tally.endings, &new.name);
                    self.learning.group_mut(&now).appended += 1;
                }
                if old.content == new.content {
                    self.learning.group_mut(&now).files += 1;
                } else {
                    self.tally.figures.changed += 1;
                    self.tally.burst(new.mtime.seconds);
                    self.turned(path, &old_path, old, new)?;
                }
            }
        }
        self.meter.progress.done(1, 0);
        Ok(())
    }

    /// Reads a file that is new or changed and learns from it.
    fn examine(&mut self, path: &TreePath, new: &Node, is_new: bool) -> Result<Option<Facts>> {
        if self.spent {
            return Ok(None);
        }
        let Some(facts) = file::examine(self.meter, new)? else {
            self.spent = true;
            return Ok(None);
        };
        self.tally.figures.read += 1;
        self.tally.figures.new_bytes += new.size;
        let flawed = facts.flaw().is_some();
        let group = self.learning.group_mut(&extension(path.as_bytes()));
        *group.kinds.entry(facts.class).or_default() += 1;
        group.learn_begin(&facts.begins);
        if is_new {
            group.files += 1;
            group.judged += 1;
            group.flawed += u64::from(flawed);
        }
        Ok(Some(facts))
    }

    /// A file without a predecessor.
    fn came(&mut self, path: &TreePath, new: &Node, like: Option<&Node>) -> Result<()> {
        let Some(facts) = self.examine(path, new, true)? else { return Ok(()) };
        let name = extension(path.as_bytes());
        let profile = self.job.profile;
        if let Some(flaw) = facts.flaw() {
            let weight = match flaw.kind {
                FlawKind::Cut => Weight::Cut,
                _ if self.is_whole(like, facts.class)? => Weight::Broken,
                _ => Weight::New,
            };
            self.tally.dumps += u64::from(facts.is_dump() && weight == Weight::Cut);
            self.note(weight, Rule::D2, path, Some(flaw.at), flaw.why.clone(), None, &facts);
        } else if let Some(at) = facts.cipher {
            self.note(Weight::New, Rule::D4, path, Some(at), cipher_text(), None, &facts);
        }
        if facts.class.is_firm() || facts.class == Class::Empty {
            return Ok(());
        }
        // What its series is counts more than what its extension is.
        let of_series = match like {
            Some(like) if self.job.previous.is_some() => {
                let class = file::kind(self.meter, like)?;
                Some(class)
                    .filter(|class| class.is_firm() || class.is_known() && facts.class != Class::Sealed)
            }
            _ => None,
        };
        let used = profile.is_used_to_opaque(&name);
        let expected = of_series.or_else(|| profile.expects(&name)).filter(|_| !used);
        if facts.class == Class::Sealed && profile.knows_sealed(&name) {
            return Ok(());
        }
        if let Some(before) = expected {
            // Something behind the name of a series is often a program that wraps; cipher text it is not.
            let sure = of_series.is_some()
                && (facts.uniform || like.is_some_and(|like| extension(&like.name) == name))
                || facts.uniform && profile.is_sure_of(&name);
            let weight = if sure { Weight::Lost } else { Weight::New };
            let why = lost(before, facts.class);
            self.note(weight, Rule::D3, path, None, why, Some(before), &facts);
            return Ok(());
        }
        if profile.group(&name).is_some_and(|group| group.begins_otherwise(&facts.begins)) {
            let weight = if like.is_some() { Weight::Broken } else { Weight::New };
            self.note(weight, Rule::D3, path, Some(0), other_begin(), None, &facts);
        }
        Ok(())
    }

    /// A file with a predecessor.
    fn turned(&mut self, path: &TreePath, old_path: &TreePath, old: &Node, new: &Node) -> Result<()> {
        let Some(facts) = self.examine(path, new, path != old_path)? else { return Ok(()) };
        self.tally.figures.rewritten += u64::from(facts.is_unverified() && facts.uniform);
        let before = file::kind(self.meter, old)?;
        if self.patterns.iter().any(|pattern| pattern.matches(old_path.as_bytes())) {
            let why = "a file that never changes has changed".to_owned();
            self.note(Weight::Hard, Rule::D1, path, None, why, Some(before), &facts);
            return Ok(());
        }
        if before == Class::Dicom && self.pixels_changed(path, old, &facts)? {
            return Ok(());
        }
        let name = extension(path.as_bytes());
        let lost_kind = match facts.class {
            Class::Opaque | Class::Base64 => before.is_known(),
            Class::Sealed => before.is_firm(),
            _ => false,
        };
        let own = self.job.profile.group(&extension(&old.name));
        if before == Class::Opaque
            && !facts.class.is_firm()
            && own.is_some_and(|group| group.begins_otherwise(&facts.begins))
        {
            self.note(Weight::Lost, Rule::D3, path, Some(0), other_begin(), Some(before), &facts);
            return Ok(());
        }
        if lost_kind {
            let known = self.job.profile.is_used_to_opaque(&name) && path != old_path
                || facts.class == Class::Sealed && self.job.profile.knows_sealed(&name);
            if !known {
                let why = lost(before, facts.class);
                self.note(Weight::Lost, Rule::D3, path, None, why, Some(before), &facts);
            }
            return Ok(());
        }
        if let Some(at) = facts.cipher {
            self.note(Weight::Lost, Rule::D4, path, Some(at), cipher_text(), Some(before), &facts);
            return Ok(());
        }
        let Some(flaw) = facts.flaw().cloned() else { return Ok(()) };
        // Was it right before? Then it has turned; else it is what it always was.
        let Some(was) = file::examine(self.meter, old)? else {
            self.spent = true;
            return Ok(());
        };
        if was.class == facts.class && was.flaw().is_some() {
            return Ok(());
        }
        let weight = match flaw.kind {
            // A file that was cut off is shorter than it was.
            FlawKind::Cut if new.size < old.size || facts.class.is_text() => Weight::Cut,
            // Text is judged byte by byte: nothing but foreign bytes can make it so.
            _ if facts.class.is_text() => Weight::Lost,
            _ => Weight::Broken,
        };
        self.tally.dumps += u64::from(facts.is_dump() && weight == Weight::Cut);
        self.note(weight, Rule::D2, path, Some(flaw.at), flaw.why, Some(before), &facts);
        Ok(())
    }

    /// Whether an older file of the same series and kind is right.
    fn is_whole(&mut self, like: Option<&Node>, class: Class) -> Result<bool> {
        let Some(like) = like.filter(|_| self.job.previous.is_some()) else { return Ok(false) };
        match file::examine(self.meter, like)? {
            Some(facts) => Ok(facts.class == class && facts.flaw().is_none()),
            None => {
                self.spent = true;
                Ok(false)
            }
        }
    }

    /// Rule D1: the same instance with other pixels.
    fn pixels_changed(&mut self, path: &TreePath, old: &Node, facts: &Facts) -> Result<bool> {
        if facts.class != Class::Dicom {
            return Ok(false);
        }
        let Some(was) = file::examine(self.meter, old)? else {
            self.spent = true;
            return Ok(false);
        };
        let same = was.learnt.instance.is_some() && was.learnt.instance == facts.learnt.instance;
        let other = was.learnt.pixels.is_some() && was.learnt.pixels != facts.learnt.pixels;
        // A file whose header is destroyed tells no instance: it is the same place, and its parser stopped.
        let lost = was.learnt.pixels.is_some() && facts.learnt.pixels.is_none() && facts.flaw().is_some();
        if (same && other) || lost {
            let at = facts.flaw().map(|flaw| flaw.at);
            let why = "the pixels of a known instance have changed".to_owned();
            self.note(Weight::Hard, Rule::D1, path, at, why, Some(Class::Dicom), facts);
        }
        Ok((same && other) || lost)
    }

    /// A file is gone for good.
    fn vanished(&mut self, path: &TreePath, old: &Node) -> Result<()> {
        let fixed = self.patterns.iter().any(|pattern| pattern.matches(path.as_bytes()));
        let may_be_dicom = !self.job.policy.dicom_may_vanish
            && self
                .job
                .profile
                .group(&extension(path.as_bytes()))
                .is_none_or(|g| g.kinds.contains_key(&Class::Dicom));
        if !fixed && !may_be_dicom {
            return Ok(());
        }
        let before = file::kind(self.meter, old)?;
        if fixed || before == Class::Dicom {
            let evidence = Evidence {
                path: path.to_string(),
                rule: Rule::D1,
                offset: None,
                why: "an object that is never deleted is gone".to_owned(),
                before: Some(before),
                now: None,
                last_good: self.job.previous.map(|point| point.sequence),
                first_bad: self.job.point.sequence,
            };
            self.tally.sign(Weight::Hard, evidence);
        }
        Ok(())
    }

    /// Rule D6.
    fn canaries(&mut self) -> Result<()> {
        let Some(canaries) = &self.job.policy.canaries else { return Ok(()) };
        for canary in canaries.files() {
            let path = TreePath::new(canary.path.clone().into_bytes()).map_err(|bad| RepoError::Damaged {
                file: "a planted file's path".into(),
                why: bad.to_string(),
            })?;
            let found = match self.job.repository.find_node(&self.job.point.tree, &path) {
                Ok(node) => Some(node),
                Err(RepoError::Invalid { .. }) => None,
                Err(other) => return Err(other.into()),
            };
            let why = match &found {
                Some(node) if file::equals(self.meter, node, &canary.content)? => continue,
                Some(_) => "a planted file was changed",
                None => "a planted file is gone",
            };
            let evidence = Evidence {
                path: canary.path,
                rule: Rule::D6,
                offset: None,
                why: why.to_owned(),
                before: None,
                now: found.is_some().then_some(Class::Opaque),
                last_good: self.job.previous.map(|point| point.sequence),
                first_bad: self.job.point.sequence,
            };
            self.tally.sign(Weight::Hard, evidence);
        }
        Ok(())
    }

    /// Rule D8: what the oldest clean point holds and never changes must still be so.
    fn oldest(&mut self) -> Result<()> {
        let (Some(oldest), Some(previous)) = (self.job.oldest, self.job.previous) else { return Ok(()) };
        if oldest == previous {
            return Ok(());
        }
        let mut changed: Vec<(TreePath, Node, Node)> = Vec::new();
        let walk = self.walk();
        let patterns = &self.patterns;
        let profile = self.job.profile;
        let (meter, repository) = (self.meter, self.job.repository);
        let mut see = |path: &TreePath, change: Change<'_>| {
            if let Change::Changed { old, new } = change {
                let fixed = patterns.iter().any(|pattern| pattern.matches(path.as_bytes()));
                let known = profile
                    .group(&extension(path.as_bytes()))
                    .is_some_and(|g| g.kinds.contains_key(&Class::Dicom));
                // What differs from the last clean point was judged already.
                let judged = || match repository.find_node(&previous.tree, path) {
                    Ok(node) => node.content != new.content,
                    Err(_) => true,
                };
                if (fixed || known && file::kind(meter, old)? == Class::Dicom)
                    && !judged()
                    && changed.len() < 1000
                {
                    changed.push((path.clone(), old.clone(), new.clone()));
                }
            }
            Ok(())
        };
        walk.compare(Some(&oldest.tree), Some(&self.job.point.tree), &mut see)?;
        for (path, old, new) in changed {
            let Some(facts) = file::examine(self.meter, &new)? else {
                self.spent = true;
                return Ok(());
            };
            let fixed = self.patterns.iter().any(|pattern| pattern.matches(path.as_bytes()));
            if fixed {
                let why = "a file that never changes differs from the oldest clean point".to_owned();
                self.note(Weight::Hard, Rule::D8, &path, None, why, None, &facts);
            } else {
                self.pixels_changed(&path, &old, &facts)?;
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one line of evidence")]
    fn note(
        &mut self,
        weight: Weight,
        rule: Rule,
        path: &TreePath,
        offset: Option<u64>,
        why: String,
        before: Option<Class>,
        facts: &Facts,
    ) {
        let path = path.to_string();
        // A file that was under suspicion before keeps the point with which it began.
        let open = self.job.profile.open.iter().find(|open| open.path == path);
        let last_good = before.and(self.job.previous).map(|point| point.sequence);
        let evidence = Evidence {
            rule,
            offset,
            why,
            before,
            now: Some(facts.class),
            last_good: open.map_or(last_good, |open| open.last_good),
            first_bad: open.map_or(self.job.point.sequence, |open| open.first_bad),
            path,
        };
        self.tally.sign(weight, evidence);
    }
}

fn other_begin() -> String {
    "all files of its kind began alike so far, and this one does not".to_owned()
}

fn cipher_text() -> String {
    "pieces that look like cipher text inside of text".to_owned()
}

fn lost(before: Class, now: Class) -> String {
    match now {
        Class::Sealed => format!("was {}, is encrypted", before.as_str()),
        Class::Base64 => format!("was {}, is nothing but base64", before.as_str()),
        _ => format!("was {}, is no longer of any known kind", before.as_str()),
    }
}
