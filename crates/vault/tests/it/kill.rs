//! SIGKILL at seeded moments of pull and proof: nothing that was complete is lost, and the next run goes on.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::Duration,
};

use kuramori_model::clock::SeededRandom;

use crate::world::{EXERCISE, World, alarms, check, complete, noise, pull};

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    let seed = std::env::var("KURAMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_402);
    println!("KURAMORI_SEED={seed}");
    let random = SeededRandom::new(seed);
    let long = std::env::var_os("KURAMORI_LONG").is_some();
    let world = World::with(&["billing", "pacs"]);
    let config = world.configure(world.address(), "");
    let (mut killed, mut had) = (0, 0);
    for round in 0..if long { 60 } else { 16 } {
        if round % 3 == 0 {
            world.write("billing", &format!("file-{}", round % 5), &noise(3000 + round, 1_500_000));
            world.backup("billing");
        }
        let mut child = Command::new(EXERCISE)
            .args(["pull", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.below(1200)));
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().signal() == Some(9));
        if round % 4 == 3 {
            // What was complete before is complete and readable now.
            let vault = world.vault();
            let now = complete(&vault, "billing") + complete(&vault, "pacs");
            assert!(now >= had, "{now} after {had}");
            had = now;
            drop(vault);
            for name in ["billing", "pacs"] {
                if world.copy(name).join("config").exists() && world.copy(name).join("keys").exists() {
                    check(&world.copy(name));
                }
            }
        }
    }
    println!("{killed} kills, {had} points were complete meanwhile");
    assert!(killed > 6, "most runs ended before their kill, so this shows little");
    let vault = world.vault();
    pull(&vault);
    let snapshots = fs_err::read_dir(world.primary("billing").join("snapshots")).unwrap().count();
    assert_eq!((complete(&vault, "billing"), complete(&vault, "pacs")), (snapshots, 1));
    assert!(alarms(&vault).iter().all(|code| code == "vault.new-repository"), "{:?}", alarms(&vault));
    check(&world.copy("billing"));
    check(&world.copy("pacs"));
    assert!(vault.register().windows(100).unwrap().iter().all(|window| window.verified.is_some()));
}
