//! What a Windows server needs to send its data by stock restic: a script, a scheduled task, and beside them
//! the credentials. Nothing of ours is installed there.
//!
//! The secrets lie in files of their own; neither the script nor the task holds one, so both may be shown to
//! anybody. `docs/windows.ja.md` says what to do with the folder.

use std::path::Path;

use crate::failure::{CliError, Failure};

/// The script; run by the task as SYSTEM, which may take volume snapshots (VSS).
const SCRIPT: &str = r#"# Sends this server's data to Kuramori by stock restic. Made by `kuramori system add --windows`.
# Put restic.exe (0.14 or later) beside this file. Exit codes: 0 done, 3 some files could not be read, else failed.
$ErrorActionPreference = 'Stop'
$here = Split-Path -Parent $MyInvocation.MyCommand.Path
function Read-Line([string]$name) { ([IO.File]::ReadAllText((Join-Path $here $name))).Trim() }

# The password of the login goes into the environment of this process only, never onto a command line.
$url = Read-Line 'url'
$login = Read-Line 'login'
$password = [Uri]::EscapeDataString((Read-Line 'login.password'))
$env:RESTIC_REPOSITORY = $url.Replace("https://$login@", "https://${login}:$password@")
$env:RESTIC_PASSWORD_FILE = Join-Path $here 'repository.password'
$env:RESTIC_CACHE_DIR = Join-Path $here 'cache'
$paths = @(@PATHS@)
$log = Join-Path $here 'last.log'

# Idle priority: the department's own work goes first.
(Get-Process -Id $PID).PriorityClass = 'Idle'
$arguments = @('--cacert', (Join-Path $here 'ca.pem'), 'backup', '--use-fs-snapshot', '--host', '@HOST@',
    '--exclude-caches', '--exclude', 'pagefile.sys', '--exclude', 'hiberfil.sys', '--exclude', 'swapfile.sys',
    '--exclude', 'System Volume Information', '--exclude', '$RECYCLE.BIN') + $paths
# restic writes notices to its error stream, which must not end this script.
$ErrorActionPreference = 'Continue'
& (Join-Path $here 'restic.exe') @arguments *> $log
exit $LASTEXITCODE
"#;

const TASK: &str = r#"<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>Kuramori: @HOST@</Description>
  </RegistrationInfo>
  <Triggers>
    <CalendarTrigger>
      <StartBoundary>2026-01-01T@TIME@:00</StartBoundary>
      <Enabled>true</Enabled>
      <ScheduleByDay><DaysInterval>1</DaysInterval></ScheduleByDay>
    </CalendarTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>S-1-5-18</UserId>
      <RunLevel>HighestAvailable</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <RunOnlyIfNetworkAvailable>true</RunOnlyIfNetworkAvailable>
    <Enabled>true</Enabled>
    <ExecutionTimeLimit>PT12H</ExecutionTimeLimit>
    <Priority>9</Priority>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>powershell.exe</Command>
      <Arguments>-NoProfile -NonInteractive -ExecutionPolicy Bypass -File "C:\ProgramData\Kuramori\@HOST@\backup.ps1"</Arguments>
    </Exec>
  </Actions>
</Task>
"#;

/// Writes script and task beside the credentials.
pub(crate) fn write(folder: &Path, system: &str, paths: &[String], cron: &str) -> Result<(), Failure> {
    // Windows PowerShell takes a script without a mark for the machine's own code page.
    let script = format!("\u{feff}{}", script(system, paths).replace('\n', "\r\n"));
    fs_err::write(folder.join("backup.ps1"), script).map_err(CliError::File)?;
    let task = task(system, &time(cron)).replace('\n', "\r\n");
    let wide: Vec<u8> =
        "\u{feff}".encode_utf16().chain(task.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    fs_err::write(folder.join("task.xml"), wide).map_err(CliError::File)?;
    Ok(())
}

fn script(system: &str, paths: &[String]) -> String {
    // In single quotes nothing but the quote itself has a meaning; PowerShell also takes typographic ones.
    let quote = |path: &String| {
        let doubled: String = path
            .chars()
            .flat_map(|c| {
                let twice = matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201A}' | '\u{201B}');
                std::iter::repeat_n(c, if twice { 2 } else { 1 })
            })
            .collect();
        format!("'{doubled}'")
    };
    let paths: Vec<String> = paths.iter().map(quote).collect();
    SCRIPT.replace("@HOST@", system).replace("@PATHS@", &paths.join(", "))
}

fn task(system: &str, time: &str) -> String {
    TASK.replace("@HOST@", system).replace("@TIME@", time)
}

/// The time of a daily cron line; 01:00 for any other, to be changed in the task.
fn time(cron: &str) -> String {
    let mut fields = cron.split_whitespace();
    let mut number =
        |below: u32| fields.next().and_then(|field| field.parse().ok()).filter(|n: &u32| *n < below);
    match (number(60), number(24)) {
        (Some(minute), Some(hour)) => format!("{hour:02}:{minute:02}"),
        _ => "01:00".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn a_path_cannot_break_out_of_its_quotes_and_the_time_is_the_schedules() {
        let paths = ["D:\\Data".to_owned(), "E:\\O'Brien’s; calc.exe".to_owned(), "F:\\$(x) `n".to_owned()];
        let script = script("ward", &paths);
        assert!(script.contains("@('D:\\Data', 'E:\\O''Brien’’s; calc.exe', 'F:\\$(x) `n')"), "{script}");
        assert!(!script.contains("@HOST@") && !script.contains("@PATHS@"));
        assert_eq!(
            (time("30 3 * * *").as_str(), time("*/5 * * * *").as_str(), time("").as_str()),
            ("03:30", "01:00", "01:00")
        );
    }

    #[test]
    fn the_task_is_xml_in_the_encoding_that_it_names_and_no_secret_is_in_it_or_in_the_script() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("login.password"), "geheim-1").unwrap();
        fs_err::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        write(folder.path(), "ward", &["D:\\データ".to_owned()], "15 2 * * *").unwrap();
        let check = "import sys, xml.etree.ElementTree as e\n\
                     t = e.parse(sys.argv[1]).getroot(); n = {'t': t.tag[1:].split('}')[0]}\n\
                     print(t.find('.//t:StartBoundary', n).text, t.find('.//t:UserId', n).text, t.find('.//t:Arguments', n).text)";
        let out =
            Command::new("python3").args(["-c", check]).arg(folder.path().join("task.xml")).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(
            text.starts_with("2026-01-01T02:15:00 S-1-5-18 ") && text.contains("\\ward\\backup.ps1"),
            "{text}"
        );
        let script = fs_err::read(folder.path().join("backup.ps1")).unwrap();
        let script_text = String::from_utf8(script).unwrap();
        assert!(script_text.starts_with('\u{feff}') && script_text.contains("'D:\\データ'"));
        assert!(!script_text.contains("geheim") && !text.contains("geheim"));
    }
}
