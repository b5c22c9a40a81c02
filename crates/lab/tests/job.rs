//! The main job through the binaries, from the departments to the restored services.

mod common;

use std::process::Command;

use serde_json::Value;

#[test]
fn the_main_job_ends_well() {
    let stage = common::Stage::new('j');
    let output = Command::new(env!("CARGO_BIN_EXE_kuramori-lab"))
        .args(["--json", "--root"])
        .arg(stage.root())
        .args(["run", "--once", "--small"])
        .output()
        .unwrap();
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{story}", output.status);
    let summary: Value = serde_json::from_slice(&output.stdout).expect("one JSON object on stdout");
    assert_eq!(summary["positive_control"], true);
    assert_eq!(summary["attack"]["vault_connections_accepted"], 0);
    assert!(summary["closed_after_kill_s"].as_f64().unwrap() <= 3.1, "{summary}");
    let restored = summary["restored"].as_array().unwrap();
    assert_eq!(restored.len(), 7);
    assert_eq!(restored[0]["name"], "directory", "nobody can log in anywhere before it is back");
    for system in restored {
        assert!(system["identical"] == true && system["running"] == true, "{system}");
    }
    let siege = &summary["siege"];
    assert!(siege["files_put_aside"].as_u64().unwrap() >= 7 && siege["points_kept"] == true, "{siege}");
    assert_eq!(summary["server"]["identical"], true);
    let sheets = summary["evidence"].as_array().unwrap();
    assert_eq!(sheets.len(), 2);
    for sheet in sheets {
        let text = fs_err::read_to_string(sheet.as_str().unwrap()).unwrap();
        assert!(
            ["directory", "billing", "ophthalmology", "pacs", "laboratory", "pathology", "ward"]
                .iter()
                .all(|system| text.contains(system)),
            "{text}"
        );
    }
}
