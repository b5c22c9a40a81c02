//! A backup that never came, and the mail that says so.

use std::time::Duration;

use kuramori_model::clock::{Clock, SystemClock};

use super::{
    Story,
    site::Site,
    summary::{MissedFigures, Summary},
};
use crate::Result;

const SYSTEM: &str = "laboratory";
const NAME: &str = "検査";
/// Seconds after the due time by which a restore point must exist.
const DEADLINE_S: u64 = 20;

/// Registers a system whose own client never sends, and waits for the alarm's mail.
pub(super) fn missed(site: &Site<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    site.add(&format!(
        r#"[[system]]
id = "{SYSTEM}"
name_ja = "{NAME}"
name_en = "Laboratory"
vendor = "検査システム株式会社(架空)"
protection = "important"
restore_order = 4
[system.schedule]
cron = "* * * * *"
zone = "Asia/Tokyo"
deadline_s = {DEADLINE_S}
missed = "alarm"
"#
    ))?;
    // It is due at the next whole minute. The policy `alarm` speaks as soon as that minute passed without a
    // backup; the judge's deadline, DEADLINE_S later, is the second net.
    let into_minute = SystemClock.now().as_second().rem_euclid(60).unsigned_abs();
    let due = SystemClock.boot() + Duration::from_secs(60 - into_minute);
    story.tell(
        "検査システムのバックアップをわざと取りません",
        "the laboratory's backup is left out on purpose",
    );
    let mail =
        site.lab.mail().wait_for("the alarm of the missed backup", Duration::from_mins(4), |mail| {
            mail.subject.contains(NAME) || mail.body.contains(NAME)
        })?;
    let found = MissedFigures {
        system: SYSTEM.to_owned(),
        found_after_s: (SystemClock.boot().as_secs_f64() - due.as_secs_f64()).max(0.0),
        mail_received: true,
        subject: mail.subject.clone(),
    };
    story.tell(
        &format!("警報メールが届きました: {}", mail.subject),
        &format!("the alarm's mail arrived: {}", mail.subject),
    );
    summary.missed = Some(found);
    Ok(())
}
