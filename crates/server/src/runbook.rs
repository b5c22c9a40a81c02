//! The runbook out of the catalog: on the screen as one sentence, in the data folder as pages to print, and
//! in `_control`, so that the vault holds it too.

use std::collections::BTreeMap;

use kuramori_drill::{
    choose::{Copy, Wish, choose},
    drill::order,
    estimate::estimate,
    runbook::{Answer, Book, Entry, document},
};
use kuramori_escrow::Recipient;
use kuramori_report::Language;

use crate::{App, ServerError, error::Result, keys::private};

/// The runbook's files: name and content, in both languages, to print and to read on a console.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

impl App {
    /// Everything that the runbook says.
    pub async fn book(&self) -> Result<Book> {
        let measured = self.measured().await?;
        let (mut entries, mut places, mut needs) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        for registered in self.catalog.systems().await? {
            let system = registered.system;
            if !system.enabled {
                continue;
            }
            let id = system.id.to_string();
            let candidates = self.candidates(&system.id).await?;
            let of = |copy| choose(&id, &candidates, &Wish { copy, ..Wish::default() }).ok();
            let (vault, nearest) = (of(Some(Copy::Vault)), of(None));
            let profile = self.profile(&system.id).await?;
            let drill = self.last_drill(&system.id).await?.map(|last| last.record);
            places.push((id.clone(), system.restore_order));
            needs.insert(id.clone(), profile.depends_on.clone());
            let bytes = vault.as_ref().or(nearest.as_ref()).map(|choice| choice.point.bytes);
            let entry = Entry {
                service: profile.service_for(system.source.get("kind").and_then(serde_json::Value::as_str)),
                expected: bytes.and_then(|bytes| estimate(&id, bytes, &measured)),
                drill: drill.map(|record| (record.ended, record.passed, record.times.rto_s)),
                name_ja: system.name_ja,
                name_en: system.name_en,
                owner: system.owner,
                vendor: system.vendor,
                contact: system.contact,
                server: system.server,
                profile,
                vault,
                nearest,
                rpo_s: system.rpo_s,
                rto_s: system.rto_s,
                id: id.clone(),
            };
            entries.insert(id, entry);
        }
        let systems: Vec<Entry> =
            order(&places, &needs).into_iter().filter_map(|id| entries.remove(id)).collect();
        let recovery: Recipient = self.keys.recovery.parse().map_err(ServerError::Escrow)?;
        Ok(Book {
            hospital: self.config.hospital.clone(),
            made: self.clock.now(),
            answer: Answer::of(&systems),
            systems,
            vaults: self.vaults().await?.into_iter().map(|vault| vault.name).collect(),
            recovery: recovery.fingerprint().to_string(),
            address: self.config.serve.listen.to_string(),
            data: self.config.data.display().to_string(),
        })
    }

    /// The runbook's pages, and the facts that they are made of.
    pub(crate) async fn runbook_files(&self) -> Result<Files> {
        let book = self.book().await?;
        let mut files = Vec::new();
        for language in [Language::Ja, Language::En] {
            let page = document(&book, language, &self.config.zone);
            files.push((format!("runbook/runbook.{}.html", language.tag()), page.html().into_bytes()));
            files.push((format!("runbook/runbook.{}.txt", language.tag()), page.text().into_bytes()));
        }
        let facts = serde_json::to_vec_pretty(&book).map_err(|error| ServerError::Bug(error.to_string()))?;
        files.push(("runbook/runbook.json".to_owned(), facts));
        Ok(files)
    }

    /// Writes the runbook into the data folder.
    pub(crate) fn write_runbook(&self, files: &Files) -> Result<()> {
        for (name, content) in files {
            private(&self.config.data.join(name), content)?;
        }
        Ok(())
    }
}
