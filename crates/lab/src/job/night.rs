//! A night's backups: what we pull, and what a stock restic client sends.

use kuramori_model::clock::{Clock, Random, SeededRandom, SystemClock};
use serde_json::Value;

use super::{
    Story,
    site::{Site, last_json},
    story::seconds_since,
    summary::{Summary, SystemFigures},
};
use crate::{Program, Result, Role};

/// The departments, in restore order.
pub(super) const SYSTEMS: [&str; 7] =
    ["directory", "billing", "ophthalmology", "pacs", "laboratory", "pathology", "ward"];

/// Everything that the server takes by itself: the agent works beside the pulls.
pub(super) fn pull_all(site: &Site<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    let directory = std::thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let mut own = Summary::default();
            pull(site, "directory", &mut own, story).map(|()| own.systems)
        });
        for system in ["billing", "ophthalmology", "laboratory", "pathology", "ward"] {
            pull(site, system, summary, story)?;
        }
        agent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    summary.systems.splice(0..0, directory);
    Ok(())
}

/// Has the server pull a department, and waits.
pub(super) fn pull(site: &Site<'_>, system: &str, summary: &mut Summary, story: &Story) -> Result<()> {
    let begin = SystemClock.boot();
    let run = site.ask(&["backup", "run", system, "--wait"])?;
    let figures = SystemFigures {
        name: system.to_owned(),
        way: match system {
            "directory" => "agent",
            "billing" => "postgres",
            "laboratory" => "mariadb",
            "pathology" => "sftp",
            "ward" => "foreign",
            _ => "smb",
        },
        bytes: run["facts"]["bytes"].as_u64().unwrap_or(0),
        seconds: seconds_since(begin),
        restore_point: newest(site, system)?,
        complete: run["state"] == "complete",
        outage_s: 0.0,
    };
    tell(&figures, story);
    record(summary, figures);
    Ok(())
}

/// Bytes of the video that a night brings.
const VIDEO: usize = 96 << 20;

/// Ophthalmology's next night: the vendor's dump changes, and a video that no compression makes smaller
/// joins it, so that the window after it lasts some seconds.
pub(super) fn next(site: &Site<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    let share = site.lab.ophthalmology();
    let mut video = vec![0; VIDEO];
    SeededRandom::new(site.lab.what().seed).fill(&mut video);
    let folder = share.folder().join("検査動画");
    fs_err::create_dir_all(&folder)?;
    fs_err::write(folder.join("眼底撮影.avi"), &video)?;
    share.write_dump(1, None)?;
    pull(site, "ophthalmology", summary, story)
}

/// Debian's restic on the picture archive's host, with what `system add` handed out.
pub(super) fn restic(site: &Site<'_>, words: &[&str]) -> Result<Program> {
    let folder = site.file("credentials/pacs");
    let read =
        |name: &str| Ok::<_, crate::LabError>(fs_err::read_to_string(folder.join(name))?.trim().to_owned());
    Ok(Program::new("restic")
        .args(["--json", "--no-cache"])
        .env("RESTIC_REPOSITORY", restic_url(&read("url")?, &read("login")?, &read("login.password")?))
        .arg("--password-file")
        .arg(folder.join("repository.password"))
        .arg("--cacert")
        .arg(folder.join("ca.pem"))
        .args(words))
}

/// The picture archive sends for itself with Debian's restic, stopped and started around it.
pub(super) fn pacs(site: &Site<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    let host = site.lab.host(Role::Pac);
    let (archive, begin) = (site.lab.pacs(), SystemClock.boot());
    archive.stop()?;
    let data = archive.data().display().to_string();
    let sent = host.text(&restic(site, &["backup", &data])?);
    archive.start()?;
    let outage = seconds_since(begin);
    let report: Value = last_json(&sent?)?;
    let figures = SystemFigures {
        name: "pacs".to_owned(),
        way: "restic",
        bytes: report["total_bytes_processed"].as_u64().unwrap_or(0),
        seconds: report["total_duration"].as_f64().unwrap_or(outage),
        restore_point: report["snapshot_id"].as_str().unwrap_or_default().to_owned(),
        complete: report["message_type"] == "summary",
        outage_s: outage,
    };
    story.tell(
        &format!("画像システムの停止時間 {outage:.1} 秒"),
        &format!("the picture archive was stopped for {outage:.1} s"),
    );
    tell(&figures, story);
    record(summary, figures);
    Ok(())
}

/// The address with another password than the client's own.
pub(super) fn wrong_login(site: &Site<'_>) -> Result<String> {
    let folder = site.file("credentials/pacs");
    let url = fs_err::read_to_string(folder.join("url"))?;
    let login = fs_err::read_to_string(folder.join("login"))?;
    Ok(restic_url(url.trim(), login.trim(), "wrong"))
}

/// `rest:https://login@host/…` with the password in it.
fn restic_url(url: &str, login: &str, password: &str) -> String {
    url.replacen(&format!("https://{login}@"), &format!("https://{login}:{password}@"), 1)
}

fn newest(site: &Site<'_>, system: &str) -> Result<String> {
    let points = site.ask(&["backup", "points", system])?;
    let newest = points.as_array().and_then(|all| all.iter().max_by_key(|point| point["sequence"].as_u64()));
    Ok(newest.and_then(|point| point["snapshot"].as_str()).unwrap_or_default().to_owned())
}

fn tell(figures: &SystemFigures, story: &Story) {
    let mib = figures.bytes as f64 / f64::from(1 << 20);
    let SystemFigures { name, way, seconds, .. } = figures;
    story.tell(
        &format!("{name} → 一次バックアップ({way}): {mib:.0} MiB、{seconds:.1} 秒"),
        &format!("{name} → primary ({way}): {mib:.0} MiB in {seconds:.1} s"),
    );
}

/// The newest figures of a system replace its earlier ones.
fn record(summary: &mut Summary, figures: SystemFigures) {
    summary.systems.retain(|known| known.name != figures.name);
    summary.systems.push(figures);
}
