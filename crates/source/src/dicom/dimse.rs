//! Any archive that answers C-FIND and C-GET (PS3.4, C.4; PS3.7): what it has, study by study, and the pictures
//! as it sends them; C-STORE to give them back.
//!
//! An archive sends a picture as it is stored only if that way of writing was agreed on. So each kind of picture
//! is proposed with each way of writing on its own; since an association takes 128 proposals, kinds are asked for
//! in groups, the likely ones first, and what did not come is asked for by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::civil::Date;

use super::{
    archive::{Archive, Fetch, Listed, Listing},
    classes::{SYNTAXES, likely},
    element::{self, Elements, IMPLICIT, Tag},
    line::Line,
    message::{
        C_ECHO, C_FIND, C_STORE, COMMAND_CLASS, COMMAND_FIELD, COMMAND_INSTANCE, DATA_SET, MESSAGE_ID,
        NO_DATA, PRIORITY, SUCCESS, Value, command, receive, receive_data,
    },
    pdu::Proposal,
};
use crate::{Control, Error, config::DicomConfig, control::Bucket};

const VERIFICATION: &str = "1.2.840.10008.1.1";
const FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";

/// Kinds of pictures in one association: each with every way of writing, and one for the question.
const KINDS: usize = 127 / SYNTAXES.len();
/// Most answers to one question; a list without end is none.
const ANSWERS: usize = 2_000_000;

/// An archive behind an association.
pub(super) struct Dimse {
    config: DicomConfig,
    control: Control,
    bucket: Arc<Bucket>,
    questions: Option<Line>,
    message: u16,
    /// Kinds that the archive has sent in this run.
    pub(super) seen: BTreeSet<String>,
}

impl Dimse {
    /// Asks whether somebody is there who knows us (C-ECHO).
    pub(super) fn connect(
        config: &DicomConfig,
        control: &Control,
        bucket: &Arc<Bucket>,
    ) -> Result<Self, Error> {
        let mut archive = Self {
            config: config.clone(),
            control: control.clone(),
            bucket: Arc::clone(bucket),
            questions: None,
            message: 0,
            seen: BTreeSet::new(),
        };
        archive.echo()?;
        Ok(archive)
    }

    pub(super) fn next_message(&mut self) -> u16 {
        self.message = self.message.wrapping_add(1).max(1);
        self.message
    }

    pub(super) fn open(&self, proposals: &[Proposal]) -> Result<Line, Error> {
        Line::open(&self.config, &self.control, &self.bucket, proposals)
    }

    fn echo(&mut self) -> Result<(), Error> {
        let plain = |service: &str| Proposal {
            service: service.to_owned(),
            syntax: IMPLICIT.to_owned(),
            reverse: false,
        };
        let mut line = self.open(&[plain(VERIFICATION), plain(FIND)])?;
        if let Some(context) = line.context(VERIFICATION).map(|agreed| agreed.id) {
            let message = self.next_message();
            let asked = command(&[
                (COMMAND_CLASS, Value::Uid(VERIFICATION)),
                (COMMAND_FIELD, Value::Short(C_ECHO)),
                (MESSAGE_ID, Value::Short(message)),
                (DATA_SET, Value::Short(NO_DATA)),
            ]);
            line.say(context, &asked, None)?;
            let answer = receive(&mut line)?;
            if answer.status() != SUCCESS {
                return Err(answer.refused(&line, "C-ECHO"));
            }
        }
        if line.context(FIND).is_some() {
            self.questions = Some(line);
        } else {
            line.release();
        }
        Ok(())
    }

    /// All answers to a question (C-FIND, study root). The second is false where the archive ended it early.
    fn find(&mut self, keys: &[(Tag, &str)]) -> Result<(Vec<Elements>, bool), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.find_once(keys) {
                // An archive ends associations that rest; one that breaks is made anew.
                Err(Error::ConnectionLost { .. }) if tries < 3 => {}
                other => return other,
            }
        }
    }

    fn find_once(&mut self, keys: &[(Tag, &str)]) -> Result<(Vec<Elements>, bool), Error> {
        let message = self.next_message();
        let mut line = match self.questions.take() {
            Some(line) => line,
            None => {
                let syntax = IMPLICIT.to_owned();
                self.open(&[Proposal { service: FIND.to_owned(), syntax, reverse: false }])?
            }
        };
        let Some(context) = line.context(FIND).map(|agreed| agreed.id) else {
            return Err(line.broken("it does not answer questions (C-FIND, study root)"));
        };
        let mut sorted = BTreeMap::new();
        sorted.extend(keys.iter().copied());
        let mut identifier = Vec::new();
        for (tag, value) in sorted {
            element::put(&mut identifier, tag, value.as_bytes(), tag >= 0x0020_0000);
        }
        let asked = command(&[
            (COMMAND_CLASS, Value::Uid(FIND)),
            (COMMAND_FIELD, Value::Short(C_FIND)),
            (MESSAGE_ID, Value::Short(message)),
            (PRIORITY, Value::Short(2)),
            (DATA_SET, Value::Short(0)),
        ]);
        line.what = "its list".into();
        line.say(context, &asked, Some(&identifier))?;
        let mut found = Vec::new();
        loop {
            let answer = receive(&mut line)?;
            if !matches!(answer.status(), 0xFF00 | 0xFF01) {
                let whole = answer.status() == SUCCESS;
                // Out of resources, or cancelled by its own limit: what came so far is true.
                if whole || answer.status() >> 8 == 0xA7 || answer.status() == 0xFE00 || !found.is_empty() {
                    self.questions = Some(line);
                    return Ok((found, whole));
                }
                return Err(answer.refused(&line, "C-FIND"));
            }
            if !answer.has_data() {
                return Err(line.broken("an answer without its content"));
            }
            let mut bytes = Vec::new();
            receive_data(&mut line, &mut |piece| {
                bytes.extend(piece);
                Ok(())
            })?;
            let elements = element::parse(&bytes, false, Tag::MAX)
                .ok_or_else(|| line.broken("an answer that makes no sense"))?;
            found.push(elements);
            if found.len() > ANSWERS {
                return Err(line.broken("its list does not end"));
            }
        }
    }

    /// A list of parts of a study. What is not all of it is said in `listing`.
    fn part(
        &mut self,
        keys: &[(Tag, &str)],
        of: &str,
        listing: &mut Listing,
    ) -> Result<Vec<Elements>, Error> {
        match self.find(keys) {
            Ok((found, true)) => Ok(found),
            Ok((found, false)) => {
                let why = format!("it ended a list of {of} early, after {}", found.len());
                listing.cut.get_or_insert(why);
                Ok(found)
            }
            // One study that it cannot list does not keep us from the others.
            Err(Error::Server { code, message, .. }) => {
                listing.cut.get_or_insert(format!("it does not list the {of}: {message} ({code})"));
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }
}

impl Archive for Dimse {
    fn about(&mut self) -> Result<(String, String), Error> {
        Ok((self.config.dimse().called, "DIMSE".to_owned()))
    }

    fn studies(&mut self, days: Option<(Date, Date)>) -> Result<(Vec<(String, Listed)>, bool), Error> {
        let days = days.map_or_else(String::new, super::range);
        let keys = [
            (element::LEVEL, "STUDY"),
            (element::STUDY_DATE, days.as_str()),
            (element::STUDY, ""),
            (element::STUDY_INSTANCES, ""),
        ];
        let (found, whole) = self.find(&keys)?;
        let mut studies = Vec::new();
        for study in found {
            let uid = study.text(element::STUDY).to_owned();
            if super::is_uid(&uid) {
                let said = study.text(element::STUDY_INSTANCES).parse().ok();
                studies.push((uid.clone(), Listed { uid, said }));
            }
        }
        Ok((studies, whole))
    }

    fn too_many(&self, days: &str) -> Error {
        super::too_many(&format!("{}:{}", self.config.server, self.config.port), days)
    }

    fn study(&mut self, uid: &str) -> Result<Option<Listed>, Error> {
        let keys = [(element::LEVEL, "STUDY"), (element::STUDY, uid), (element::STUDY_INSTANCES, "")];
        let (found, whole) = self.find(&keys)?;
        let found = found.iter().find(|study| study.text(element::STUDY) == uid);
        let said = found.map(|study| study.text(element::STUDY_INSTANCES).parse().ok());
        // An answer that was ended early does not say that the study is gone.
        let said = said.or((!whole).then_some(None));
        Ok(said.map(|said| Listed { uid: uid.to_owned(), said }))
    }

    fn instances(&mut self, study: &str) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        let keys = [
            (element::LEVEL, "SERIES"),
            (element::STUDY, study),
            (element::SERIES, ""),
            (element::MODALITY, ""),
        ];
        for series in self.part(&keys, "series", &mut listing)? {
            let uid = series.text(element::SERIES).to_owned();
            if !super::is_uid(&uid) {
                continue;
            }
            listing.modalities.insert(series.text(element::MODALITY).to_owned());
            let keys = [
                (element::LEVEL, "IMAGE"),
                (element::STUDY, study),
                (element::SERIES, &uid),
                (element::SOP_INSTANCE, ""),
                (element::SOP_CLASS, ""),
            ];
            for instance in self.part(&keys, "pictures", &mut listing)? {
                let sop = instance.text(element::SOP_INSTANCE).to_owned();
                if super::is_uid(&sop) {
                    let class = instance.text(element::SOP_CLASS);
                    if super::is_uid(class) {
                        listing.classes.insert(class.to_owned());
                    }
                    listing.instances.insert(sop, uid.clone());
                }
            }
        }
        Ok(listing)
    }

    fn fetch(
        &mut self,
        study: &str,
        listing: &Listing,
        take: &mut dyn Fetch,
    ) -> Result<BTreeSet<String>, Error> {
        let kinds = likely(&listing.classes, &listing.modalities, &self.seen);
        let mut wanted = listing.instances.clone();
        let mut whole = true;
        for kinds in kinds.chunks(KINDS) {
            let mut tries = 0;
            let missing = loop {
                tries += 1;
                match self.get(kinds, study, &wanted, whole, take) {
                    // What came before the line broke is there; the rest is asked for by name.
                    Err(Error::ConnectionLost { .. }) if tries < 3 => {
                        wanted.retain(|sop, _| !take.has(sop));
                        whole = false;
                        if wanted.is_empty() {
                            break BTreeSet::new();
                        }
                    }
                    other => break other?,
                }
            };
            wanted.retain(|sop, _| missing.contains(sop));
            whole = false;
            if wanted.is_empty() {
                break;
            }
        }
        Ok(wanted.into_keys().collect())
    }

    fn store(&mut self, sop: &str, file: &[u8]) -> Result<(), Error> {
        let broken = || Error::Manifest(format!("`{sop}` is not a picture that can be sent"));
        let (at, syntax) = element::file_meta(file).ok_or_else(broken)?;
        let class = element::meta_class(file).ok_or_else(broken)?;
        let mut line =
            self.open(&[Proposal { service: class.clone(), syntax: syntax.clone(), reverse: false }])?;
        sop.clone_into(&mut line.what);
        let Some(context) = line.context(&class).map(|agreed| agreed.id) else {
            return Err(Error::Server {
                server: line.server.clone(),
                code: "0122".into(),
                message: format!("it takes no pictures of the kind {class} written as {syntax}"),
            });
        };
        let message = self.next_message();
        let asked = command(&[
            (COMMAND_CLASS, Value::Uid(&class)),
            (COMMAND_FIELD, Value::Short(C_STORE)),
            (MESSAGE_ID, Value::Short(message)),
            (PRIORITY, Value::Short(2)),
            (DATA_SET, Value::Short(0)),
            (COMMAND_INSTANCE, Value::Uid(sop)),
        ]);
        line.say(context, &asked, Some(&file[at..]))?;
        let answer = receive(&mut line)?;
        // A warning (Bxxx) says that it was stored, changed in places; reading it back shows what became of it.
        if answer.status() != SUCCESS && answer.status() >> 12 != 0xB {
            return Err(answer.refused(&line, "C-STORE"));
        }
        line.release();
        Ok(())
    }
}
