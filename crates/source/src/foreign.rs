//! A system that another backup product protects: what its job says, and its folder as restore points.
//!
//! The story of a run: read the newest result file, if there is one; if the product itself says that the job
//! failed, the run ends with its words. Then, if the folder is to be pulled, it is read like a vendor's dump
//! (see [`crate::smb`]) with the product's own sign of completeness as the marker:
//!
//! | product | marker | names the files |
//! |---|---|---|
//! | Veeam without our script | the newest `.vbm`, which the product writes last | yes, where it can be read |
//! | others, and Veeam with `result` set | the result file that our post-job script writes last | yes |
//!
//! No file may be newer than the marker, each file that the marker names must be there (in its announced
//! size), and two looks must show the same sizes. A merge that runs in the background therefore delays the
//! run and never becomes a restore point.
//!
//! **Invariant:** the folder is opened for reading only and nobody's access is refused, so the other product
//! does not fail because of us.

use kuramori_model::{foreign::JobResult, foreign::JobState, tree::Sink};

use crate::{
    Control, Description, Error, Phase, Progress, Report, Source,
    config::{ForeignConfig, MarkerConfig, Product, Pull, SmbConfig},
    report::{ForeignOrigin, Origin, Statement},
    smb::{self, SmbSource},
};

/// The result file of our own scripts.
pub const RESULT: &str = "kuramori-result.json";

/// Another product's jobs.
#[derive(Debug)]
pub struct ForeignSource {
    config: ForeignConfig,
}

impl ForeignSource {
    /// Contacts nobody yet.
    pub fn new(config: ForeignConfig) -> Self {
        Self { config }
    }

    /// The result file that is looked for; Veeam's folder needs none.
    fn result_file(&self) -> Option<&str> {
        match (&self.config.result, self.config.product, self.config.pull) {
            (Some(name), ..) => Some(name),
            (None, Product::Veeam, Pull::Folder) => None,
            (None, ..) => Some(RESULT),
        }
    }

    /// The share with the product's own rule, unless the register has another one.
    fn share(&self, share: &SmbConfig) -> SmbConfig {
        let mut share = share.clone();
        share.marker.get_or_insert_with(|| {
            // A post-job script writes its result after the product's last file, so it vouches where there is one.
            let pattern = self.result_file().unwrap_or("*.vbm");
            MarkerConfig { names_files: true, ..MarkerConfig::new(pattern) }
        });
        share
    }

    fn consistency(&self) -> Statement {
        match self.config.pull {
            Pull::Result => Statement {
                ja: "他製品のジョブ結果のみを記録する。Kuramoriの復元点はない。".into(),
                en: "Only what the other product says about its job; there is no restore point of ours.".into(),
            },
            Pull::Folder => Statement {
                ja: "他製品のバックアップ一式。製品自身の完了の印で確定し、印が挙げるファイルはすべて存在し、読み取り中の変更もない。\
                     中身の整合性は製品が保証する範囲に限られ、復元にはその製品が必要。"
                    .into(),
                en: "Another product's backup set: its own sign of completion vouched for it, every file that the sign \
                     names was there, and nothing changed while it was read. What is inside is as consistent as the \
                     product made it, and the product is needed to restore it."
                    .into(),
            },
        }
    }
}

impl Source for ForeignSource {
    fn describe(&self) -> Description {
        let inner = self.config.share.as_ref().map(|share| SmbSource::new(share.clone()).describe());
        Description {
            kind: "foreign",
            server: self.config.server.clone(),
            address: inner.map_or_else(
                || format!("{}@{}", self.config.product.as_str(), self.config.server),
                |inner| inner.address,
            ),
            consistency: self.consistency(),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let Some(share) = &self.config.share else {
            return Err(Error::Config(
                "this product's results only come by post; there is nothing to read".into(),
            ));
        };
        let (begun, started) = (control.clock.now(), control.clock.boot());
        let (mut result, mut origin) = (None, None);
        if let Some(pattern) = self.result_file() {
            (control.progress)(&Progress {
                phase: Phase::Looking,
                items: 0,
                bytes: 0,
                total: None,
                path: pattern,
            });
            let (found_at, found) = smb::read_one(share, pattern, control)?;
            origin = Some(found_at);
            match found {
                Some((name, content)) => {
                    let read = JobResult::parse(&content)
                        .map_err(|error| Error::BadResult { name, why: error.to_string() })?;
                    match read.state {
                        JobState::Failed => return Err(Error::ForeignFailed(Box::new(read))),
                        // A wish for the gate says nothing about a backup.
                        JobState::Request => {}
                        JobState::Success | JobState::Warning => result = Some(read),
                    }
                }
                None if self.config.pull == Pull::Result => {
                    return Err(Error::MarkerMissing {
                        pattern: pattern.to_owned(),
                        folder: share.folder.clone(),
                        waited: 0,
                    });
                }
                // The marker's rule decides whether that is wrong.
                None => {}
            }
        }
        if self.config.pull == Pull::Result {
            return Ok(Report {
                items: 0,
                files: 0,
                bytes: 0,
                kept: 0,
                newest: None,
                begun,
                seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
                waited_seconds: 0.0,
                fault_count: 0,
                felt: None,
                faults: Vec::new(),
                reconnects: 0,
                consistency: self.consistency(),
                origin: Origin::Foreign(ForeignOrigin {
                    product: self.config.product.as_str().to_owned(),
                    share: origin.unwrap_or_default(),
                    result,
                    pulled: false,
                }),
            });
        }
        let report = SmbSource::new(self.share(share)).read(sink, control)?;
        let Origin::Smb(share) = report.origin else {
            return Err(Error::Config("a share was expected".into()));
        };
        let origin =
            ForeignOrigin { product: self.config.product.as_str().to_owned(), share, result, pulled: true };
        Ok(Report { consistency: self.consistency(), origin: Origin::Foreign(origin), ..report })
    }
}
