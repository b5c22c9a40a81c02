//! Orthanc on a restored archive: it starts, says how much it holds, and every instance has the bytes that
//! its own index recorded when it was received.

use super::Stage;
use crate::{
    DrillError, Result,
    cell::{As, program},
};

const USER: &str = "orthanc";
const HTTP: u16 = 8042;
const DICOM: u16 = 4242;
/// Instances that are read one by one; of more, this many spread evenly.
const READ_MAX: usize = 5000;

pub(super) fn bring_up(stage: &Stage<'_>, folder: &str) -> Result<()> {
    let Some(orthanc) = program("Orthanc") else {
        let how = "is not installed here (Debian: orthanc)".to_owned();
        return Err(DrillError::Program { program: "Orthanc".to_owned(), how });
    };
    let data = if folder.is_empty() { stage.data.to_owned() } else { stage.data.join(folder) };
    let index = data.join("index");
    if !index.is_file() {
        stage.note("index", "index", "the archive's index is missing", false);
        return Ok(());
    }
    let (config, log) = (stage.run.join("orthanc.json"), stage.run.join("orthanc.log"));
    let settings = serde_json::json!({
        "Name": "KURAMORI-DRILL", "StorageDirectory": data, "IndexDirectory": data, "HttpPort": HTTP,
        "DicomPort": DICOM, "RemoteAccessAllowed": false, "AuthenticationEnabled": false, "Plugins": [],
        "TemporaryDirectory": stage.run, "HttpDescribeErrors": true, "DicomAet": "DRILL",
    });
    fs_err::write(&config, settings.to_string()).map_err(DrillError::file("prepare Orthanc"))?;
    stage.cell.give(USER, stage.data)?;
    stage.cell.give(USER, stage.run)?;
    let mut command = stage.cell.command(As::User(USER), &orthanc.display().to_string());
    command.arg(&config).current_dir("/");
    let mut child = stage.cell.start(command, "Orthanc", &log)?;
    stage.wait("Orthanc", &mut child, &log, || {
        Ok(stage.cell.http(HTTP, "GET", "/system").is_ok_and(|(status, _)| status == 200))
    })?;
    let json = |path: &str| -> Result<serde_json::Value> {
        let (status, body) = stage.cell.http(HTTP, "GET", path)?;
        serde_json::from_slice(&body).map_err(|_| DrillError::Program {
            program: "Orthanc".to_owned(),
            how: format!("answered {status} to {path}"),
        })
    };
    let statistics = json("/statistics")?;
    let count = |key: &str| statistics[key].as_u64().unwrap_or(0);
    let (studies, instances) = (count("CountStudies"), count("CountInstances"));
    let asked = "statistics";
    let last: Option<u64> =
        stage.last("orthanc", asked).and_then(|answer| answer.split(' ').next()?.parse().ok());
    stage.probe(
        "orthanc",
        asked,
        format!("{instances} instances in {studies} studies"),
        last.map(|last| format!(">= {last} instances")),
        instances > 0 && last.is_none_or(|last| instances >= last),
    );
    if let Some(echo) = program("echoscu") {
        let port = DICOM.to_string();
        let echoed =
            stage.ask(As::User(USER), &echo.display().to_string(), &["-aec", "DRILL", "127.0.0.1", &port]);
        let good = echoed.is_ok();
        stage.note(
            "c-echo",
            "DICOM C-ECHO",
            echoed.map_or_else(|error| error.to_string(), |_| "OK".to_owned()),
            good,
        );
    }
    let all = json("/instances")?;
    let ids: Vec<&str> = all.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    let step = ids.len().div_ceil(READ_MAX).max(1);
    let mut bad = Vec::new();
    let mut read = 0;
    for id in ids.iter().step_by(step) {
        read += 1;
        let path = format!("/instances/{id}/attachments/dicom/verify-md5");
        let (status, _) = stage.cell.http(HTTP, "POST", &path)?;
        if status != 200 {
            bad.push((*id).to_owned());
        }
    }
    let answer = if bad.is_empty() {
        format!("{read} of {} instances read, all as received", ids.len())
    } else {
        format!(
            "{} of {read} instances are not as received: {}",
            bad.len(),
            bad[..bad.len().min(5)].join(", ")
        )
    };
    stage.note("md5", "every instance against its recorded sum", answer, bad.is_empty() && read > 0);
    Ok(())
}
