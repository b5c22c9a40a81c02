//! C-GET: pictures on the association that we opened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    archive::Fetch,
    classes::SYNTAXES,
    dimse::Dimse,
    element::{self, IMPLICIT},
    line::Line,
    message::{
        C_GET, C_STORE, COMMAND_CLASS, COMMAND_FIELD, COMMAND_INSTANCE, DATA_SET, MESSAGE_ID, Message,
        NO_DATA, PRIORITY, RESPONDED_TO, STATUS, SUCCESS, Value, command, receive, receive_data,
    },
    pdu::Proposal,
};
use crate::Error;

const GET: &str = "1.2.840.10008.5.1.4.1.2.2.3";

/// Names in one question for single pictures.
const NAMES: usize = 100;
/// After so many pictures that were asked for alone and did not come, no more are asked for so.
const IDLE: usize = 100;
/// Largest instance that is taken.
const INSTANCE: u64 = 4 << 30;

/// Names in groups of at most `most`, each of one series.
fn by_name(missing: &BTreeSet<String>, wanted: &BTreeMap<String, String>, most: usize) -> Vec<Vec<String>> {
    let mut series: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for sop in missing {
        if let Some(of) = wanted.get(sop) {
            series.entry(of).or_default().push(sop.clone());
        }
    }
    series.values().flat_map(|names| names.chunks(most).map(<[String]>::to_vec)).collect()
}

impl Dimse {
    /// One association for some kinds; gives what did not come.
    pub(super) fn get(
        &mut self,
        kinds: &[String],
        study: &str,
        wanted: &BTreeMap<String, String>,
        whole: bool,
        take: &mut dyn Fetch,
    ) -> Result<BTreeSet<String>, Error> {
        let mut proposals =
            vec![Proposal { service: GET.to_owned(), syntax: IMPLICIT.to_owned(), reverse: false }];
        for kind in kinds {
            proposals.extend(SYNTAXES.iter().map(|syntax| Proposal {
                service: kind.clone(),
                syntax: (*syntax).to_owned(),
                reverse: true,
            }));
        }
        let mut missing: BTreeSet<String> = wanted.keys().cloned().collect();
        let mut line = self.open(&proposals)?;
        study.clone_into(&mut line.what);
        let Some(context) = line.context(GET).map(|agreed| agreed.id) else {
            return Err(line.broken("it does not hand pictures out (C-GET, study root)"));
        };
        if line.agreed.len() == 1 {
            line.release();
            return Ok(missing);
        }
        let mut asks: VecDeque<Vec<String>> =
            if whole { [Vec::new()].into() } else { by_name(&missing, wanted, NAMES).into() };
        let mut idle = 0;
        while let Some(names) = asks.pop_front() {
            let before = missing.len();
            let failed = self.ask(&mut line, context, study, (&names, wanted), &mut missing, take)?;
            if names.len() == 1 {
                idle = if missing.len() == before { idle + 1 } else { 0 };
                if idle >= IDLE {
                    break;
                }
            } else if failed {
                // Some archives end the whole answer at the first picture that they cannot give: the others are
                // asked for by name, and in the end one by one.
                let left = missing.iter().filter(|sop| names.is_empty() || names.contains(sop)).cloned();
                asks.extend(by_name(&left.collect(), wanted, if names.is_empty() { NAMES } else { 1 }));
            }
        }
        line.release();
        Ok(missing)
    }

    /// Asks for a study, or for some pictures of one of its series, and takes what comes. Gives whether the archive
    /// broke off.
    fn ask(
        &mut self,
        line: &mut Line,
        context: u8,
        study: &str,
        (names, wanted): (&[String], &BTreeMap<String, String>),
        missing: &mut BTreeSet<String>,
        take: &mut dyn Fetch,
    ) -> Result<bool, Error> {
        let mut question = vec![(element::LEVEL, "STUDY".to_owned()), (element::STUDY, study.to_owned())];
        if let Some(first) = names.first() {
            let series = wanted.get(first).cloned().unwrap_or_default();
            question = vec![
                (element::SOP_INSTANCE, names.join("\\")),
                (element::LEVEL, "IMAGE".to_owned()),
                (element::STUDY, study.to_owned()),
                (element::SERIES, series),
            ];
        }
        let mut identifier = Vec::new();
        for (tag, value) in &question {
            element::put(&mut identifier, *tag, value.as_bytes(), *tag != element::LEVEL);
        }
        let message = self.next_message();
        let asked = command(&[
            (COMMAND_CLASS, Value::Uid(GET)),
            (COMMAND_FIELD, Value::Short(C_GET)),
            (MESSAGE_ID, Value::Short(message)),
            (PRIORITY, Value::Short(2)),
            (DATA_SET, Value::Short(0)),
        ]);
        line.say(context, &asked, Some(&identifier))?;
        loop {
            let answer = receive(line)?;
            if answer.field() == C_STORE {
                self.take_one(line, &answer, wanted, missing, take)?;
                continue;
            }
            if answer.has_data() {
                receive_data(line, &mut |_| Ok(()))?;
            }
            match answer.status() {
                0xFF00 => {}
                // All or some of them: what is missing is seen by what is missing.
                SUCCESS | 0xB000 => return Ok(false),
                status if status >> 12 == 0xA || status >> 12 == 0xC => return Ok(true),
                _ => return Err(answer.refused(line, "C-GET")),
            }
        }
    }

    fn take_one(
        &mut self,
        line: &mut Line,
        asked: &Message,
        wanted: &BTreeMap<String, String>,
        missing: &mut BTreeSet<String>,
        take: &mut dyn Fetch,
    ) -> Result<(), Error> {
        let (class, sop) =
            (asked.command.text(COMMAND_CLASS).to_owned(), asked.command.text(COMMAND_INSTANCE).to_owned());
        let syntax = line.agreed.iter().find(|agreed| agreed.id == asked.context).cloned();
        let Some(syntax) = syntax.filter(|agreed| agreed.service == class).map(|agreed| agreed.syntax) else {
            return Err(line.broken("it sends a picture in a way that was not agreed on"));
        };
        // What was not listed came meanwhile: the next run's.
        let ours = wanted.contains_key(&sop) && missing.contains(&sop);
        if ours {
            take.begin(&sop)?;
            take.write(&element::file_head(&class, &sop, &syntax))?;
        }
        let mut size = 0;
        receive_data(line, &mut |piece| {
            size += piece.len() as u64;
            if size > INSTANCE {
                return Err(Error::Manifest(format!("`{sop}` is larger than any picture that is taken")));
            }
            if ours { take.write(piece) } else { Ok(()) }
        })?;
        if ours {
            take.end(&sop)?;
            missing.remove(&sop);
            self.seen.insert(class.clone());
        }
        let answer = command(&[
            (COMMAND_CLASS, Value::Uid(&class)),
            (COMMAND_FIELD, Value::Short(C_STORE | 0x8000)),
            (RESPONDED_TO, Value::Short(asked.command.short(MESSAGE_ID).unwrap_or(0))),
            (DATA_SET, Value::Short(NO_DATA)),
            (STATUS, Value::Short(SUCCESS)),
            (COMMAND_INSTANCE, Value::Uid(&sop)),
        ]);
        line.say(asked.context, &answer, None)
    }
}
