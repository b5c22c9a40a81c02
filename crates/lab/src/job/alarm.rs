//! A backup that never came, and the mail that says so.

use std::time::Duration;

use kuramori_model::clock::{Clock, SystemClock};

use super::{
    Story,
    site::Site,
    summary::{MissedFigures, Summary},
};
use crate::Result;

const SYSTEM: &str = "rehabilitation";
const NAME: &str = "リハビリ";
/// Seconds after the due time by which a restore point must exist.
const DEADLINE_S: u64 = 20;

/// A backup that is left out.
pub(super) struct LeftOut {
    /// When it is due, in seconds of the wall clock.
    due: i64,
}

/// Registers a system whose own client never sends. The alarm comes by itself; other work goes on.
pub(super) fn leave_out(site: &Site<'_>, story: &Story) -> Result<LeftOut> {
    site.add(&format!(
        r#"[[system]]
id = "{SYSTEM}"
name_ja = "{NAME}"
name_en = "Rehabilitation"
vendor = "療法システム株式会社(架空)"
protection = "important"
restore_order = 8
[system.schedule]
cron = "* * * * *"
zone = "Asia/Tokyo"
deadline_s = {DEADLINE_S}
missed = "alarm"
"#
    ))?;
    let now = SystemClock.now().as_second();
    story.tell(
        "リハビリ部門のバックアップをわざと取りません",
        "rehabilitation's backup is left out on purpose",
    );
    // It is due at the next whole minute. The policy `alarm` speaks as soon as that minute passed without a
    // backup; the judge's deadline, DEADLINE_S later, is the second net.
    Ok(LeftOut { due: now - now.rem_euclid(60) + 60 })
}

/// Waits for the alarm's mail.
pub(super) fn told(site: &Site<'_>, left_out: &LeftOut, summary: &mut Summary, story: &Story) -> Result<()> {
    let mail =
        site.lab.mail().wait_for("the alarm of the missed backup", Duration::from_mins(4), |mail| {
            mail.subject.contains(NAME) || mail.body.contains(NAME)
        })?;
    let found_after_s = mail.arrived().unwrap_or(f64::NAN) - left_out.due as f64;
    let found = MissedFigures {
        system: SYSTEM.to_owned(),
        found_after_s,
        mail_received: true,
        subject: mail.subject.clone(),
    };
    story.tell(
        &format!("警報メールが届きました(予定時刻の {found_after_s:.0} 秒後): {}", mail.subject),
        &format!("the alarm's mail arrived {found_after_s:.0} s after it was due: {}", mail.subject),
    );
    summary.missed = Some(found);
    Ok(())
}
