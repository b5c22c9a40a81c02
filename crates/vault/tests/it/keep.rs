//! Retention: only by the vault's own order and running time.

use std::{sync::Arc, time::Duration};

use kuramori_model::clock::{ManualClock, SystemRandom};
use kuramori_repo::Cancel;
use kuramori_vault::{Config, Vault, config::vault_retention};

use crate::world::{World, alarms, check, complete, noise, restic};

const DAY: Duration = Duration::from_hours(24);

fn day(world: &World, vault: &Vault, clock: &ManualClock, number: u64) -> kuramori_vault::keep::Kept {
    world.write("billing", "daily", &noise(7000 + number, 200_000));
    world.backup("billing");
    let (_, work) = vault.seed(&world.path("primary"), &Cancel::default()).unwrap();
    clock.advance(DAY);
    work.kept.into_iter().next().unwrap()
}

#[test]
fn a_burst_of_false_points_and_a_jumping_clock_remove_nothing_and_age_removes_little_by_little() {
    let mut world = World::new();
    world.init("billing");
    world.serve();
    let config = Config::read(&world.configure(
        world.address(),
        "[retention]\ndaily = 3\nweekly = 0\nmonthly = 0\nmin_days = 4\nremovals_per_day = 1\n",
    ));
    let clock = Arc::new(ManualClock::new("2026-04-01T03:00:00Z".parse().unwrap()));
    let vault = Vault::open(config.unwrap(), clock.clone(), Arc::new(SystemRandom)).unwrap();
    for number in 0..5 {
        assert_eq!(day(&world, &vault, &clock, number).removed, []);
    }
    // Whoever owns the primary writes many points dated far ahead, and moves the vault's wall clock too.
    for burst in 0..6 {
        let time = format!("2099-01-{:02} 00:00:00", burst + 1);
        let (primary, source) = (world.primary("billing"), world.source("billing"));
        world.write("billing", "daily", &noise(8000 + burst, 1000));
        restic(&primary, &["backup", "--host", "billing", "--time", &time, source.to_str().unwrap()]);
    }
    clock.jump("2099-02-01T00:00:00Z".parse().unwrap());
    let (_, work) = vault.seed(&world.path("primary"), &Cancel::default()).unwrap();
    assert_eq!(work.kept[0].removed, []);
    assert!(alarms(&vault).contains(&"vault.clock-jumped".to_owned()));
    assert_eq!(complete(&vault, "billing"), 11);
    clock.jump("2026-04-06T03:00:00Z".parse().unwrap());

    // Time goes on, really: what is old enough goes, one a day, and the rest stays whole.
    let mut removed = Vec::new();
    let mut packs = 0;
    for number in 20..29 {
        let kept = day(&world, &vault, &clock, number);
        assert!(kept.removed.len() <= 1, "{kept:?}");
        removed.extend(kept.removed);
        packs += kept.packs;
    }
    assert!(removed.len() >= 5 && packs > 0, "{removed:?}, {packs} packs");
    assert!(removed.is_sorted(), "the vault's own order decides: {removed:?}");
    check(&world.copy("billing"));
    assert!(!alarms(&vault).contains(&"vault.clock-jumped".to_owned()));

    // What was dropped is not fetched again for nothing …
    let gone = noise(7000, 200_000);
    let (pulled, _) = vault.seed(&world.path("primary"), &Cancel::default()).unwrap();
    assert_eq!(pulled.bytes, 0);
    // … but comes again when a new point needs it: the primary still has its pieces and reuses them.
    world.write("billing", "daily", &gone);
    world.backup("billing");
    let before = complete(&vault, "billing");
    let (_, work) = vault.seed(&world.path("primary"), &Cancel::default()).unwrap();
    assert_eq!(work.proven[0].incomplete, 1, "the piece is in a dropped pack");
    vault.seed(&world.path("primary"), &Cancel::default()).unwrap();
    assert_eq!(complete(&vault, "billing"), before + 1);
    check(&world.copy("billing"));
}

#[test]
fn the_defaults_are_the_ones_that_were_decided() {
    let retention = vault_retention();
    assert_eq!((retention.daily, retention.weekly, retention.monthly, retention.min_days), (14, 8, 12, 90));
}
