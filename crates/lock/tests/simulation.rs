//! T7: no clock frees a file early. And T9: no burst, and no sender's time, frees one either.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use jiff::Timestamp;
use kuramori_lock::{Keeper, Rules, ledger::Entry, time::Time};
use kuramori_model::{
    clock::{Random, SeededRandom},
    lock::{FileId, Kind, Mark, Name},
};

const DAY: u64 = 86_400;

/// The world of the simulation: what really passed, and what the machine's clocks say.
struct World {
    really_s: u64,
    boot_s: u64,
    boot: u64,
    wall: i64,
}

fn name(random: &SeededRandom, kind: Kind) -> Name {
    let mut id = [0; 32];
    random.fill(&mut id);
    Name { kind, id: FileId(id) }
}

/// One machine's life; gives how many removals there were, and how many came too early.
fn life(seed: u64, broken: bool) -> (u64, u64) {
    let random = SeededRandom::new(seed);
    let mut world = World { really_s: 0, boot_s: 500, boot: 0, wall: 1_775_000_000 };
    let at = |world: &World| {
        let wall = Timestamp::from_second(world.wall.clamp(-2_000_000_000, 9_000_000_000)).unwrap();
        (format!("boot-{}", world.boot), Duration::from_secs(world.boot_s), wall)
    };
    let (boot, since, wall) = at(&world);
    let rules = Rules { days: 30, keep_clean: 2, removals_per_day: 50, ..Rules::default() };
    let mut keeper = Keeper::new(rules, Time::begin(&boot, since, wall));
    let mut held: Vec<(Name, u64)> = Vec::new();
    let (mut removed, mut early) = (0, 0);
    for _ in 0..400 {
        let running = random.below(3 * DAY);
        (world.really_s, world.boot_s, world.wall) =
            (world.really_s + running, world.boot_s + running, world.wall + i64::try_from(running).unwrap());
        match random.below(12) {
            // Ten years either way, as an attacker or a dead battery does it.
            0 => world.wall += 315_576_000,
            1 => world.wall -= 315_576_000,
            // A wrong drift of 500 ppm, and a little NTP.
            2 => world.wall += i64::try_from(running / 2000).unwrap(),
            3 => world.wall -= 5,
            // A reboot, with the machine off for a while: that does not count.
            4 => {
                let off = random.below(40 * DAY);
                world.really_s += off;
                world.wall += i64::try_from(off).unwrap();
                (world.boot, world.boot_s) = (world.boot + 1, random.below(60));
            }
            // Many reboots in a row.
            5 => {
                for _ in 0..20 {
                    (world.boot, world.boot_s) = (world.boot + 1, 1);
                    world.really_s += 1;
                    let (boot, since, wall) = at(&world);
                    keeper.time.tick(&boot, since, wall);
                }
            }
            _ => {}
        }
        let (boot, since, wall) = at(&world);
        keeper.time.tick(&boot, since, wall);
        if broken {
            // What a lock would do that believed the wall clock.
            let (accumulated, wall_s) = (keeper.time.seconds(), wall.as_second() - 1_775_000_000);
            let ahead = u64::try_from(wall_s).unwrap_or(0).saturating_sub(accumulated);
            keeper.time.tick(&boot, since + Duration::from_secs(ahead), wall);
            keeper.time.confirm();
        }
        if random.below(20) == 0 {
            keeper.apply(&Entry::Confirm { skew_s: 0 });
        }
        let kind = [Kind::Data, Kind::Data, Kind::Snapshots][usize::try_from(random.below(3)).unwrap()];
        let file = name(&random, kind);
        // A caller may ask for less; it gets no less than the rule.
        let days = u32::try_from(random.below(60)).unwrap();
        for entry in keeper.keep("billing", &[file], days) {
            keeper.apply(&entry);
        }
        held.push((file, world.really_s + u64::from(days.max(30)) * DAY));
        let wanted: Vec<Name> = held.iter().map(|(file, _)| *file).collect();
        let (goes, stays) = keeper.plan("billing", &wanted);
        assert_eq!(goes.len() + stays.len(), wanted.len());
        if keeper.time.frozen() {
            assert!(goes.is_empty(), "seed {seed}: something goes while the clock is not believed");
        }
        for file in &goes {
            let at = held.iter().position(|(held, _)| held == file).unwrap();
            early += u64::from(held[at].1 > world.really_s);
            removed += 1;
            held.remove(at);
        }
        keeper.apply(&Entry::Remove {
            repository: "billing".into(),
            files: goes,
            at_s: keeper.time.seconds(),
        });
    }
    (removed, early)
}

#[test]
fn no_clock_jump_of_ten_years_unlocks_anything_early() {
    let lives = if std::env::var_os("KURAMORI_LONG").is_some() { 5_000 } else { 60 };
    let (mut removed, mut early) = (0, 0);
    for seed in 0..lives {
        let (gone, wrong) = life(seed, false);
        (removed, early) = (removed + gone, early + wrong);
    }
    eprintln!("seeds 0..{lives}: {removed} removals, {early} early");
    assert!(removed > lives * 10, "files do go in the end");
    assert_eq!(early, 0);
    // The same lives with a lock that believes the wall clock: the test would notice.
    let wrong: u64 = (0..20).map(|seed| life(seed, true).1).sum();
    assert!(wrong > 0);
}

#[test]
fn a_burst_of_false_points_frees_nothing_and_clean_ones_stay() {
    let random = SeededRandom::new(9);
    let time = Time::begin("a", Duration::from_secs(1), Timestamp::UNIX_EPOCH);
    let rules = Rules { days: 10, keep_clean: 3, ..Rules::default() };
    let mut keeper = Keeper::new(rules, time);
    let on = |keeper: &mut Keeper, days: u64| {
        let now = keeper.time.seconds() + days * DAY;
        keeper.time.tick(
            "a",
            Duration::from_secs(1 + now),
            Timestamp::from_second(i64::try_from(now).unwrap()).unwrap(),
        );
    };
    let mut good = Vec::new();
    for _ in 0..5 {
        let file = name(&random, Kind::Snapshots);
        for entry in keeper.keep("pacs", &[file], 10) {
            keeper.apply(&entry);
        }
        keeper.apply(&Entry::Mark { repository: "pacs".into(), snapshot: file.id, verdict: Mark::Clean });
        good.push(file);
        on(&mut keeper, 1);
    }
    // Whoever owns the primary sends a thousand points dated 2099; to the lock they are files like others.
    for _ in 0..1000 {
        let file = name(&random, Kind::Snapshots);
        for entry in keeper.keep("pacs", &[file], 0) {
            keeper.apply(&entry);
        }
    }
    assert!(keeper.plan("pacs", &good).0.is_empty(), "none is ten days old");
    on(&mut keeper, 30);
    let (goes, stays) = keeper.plan("pacs", &good);
    assert_eq!(
        (goes.len(), stays.len()),
        (2, 3),
        "all have expired; three clean ones stay, whatever else came"
    );
    assert!(stays.iter().all(|one| one.code == "lock.min-keep"));
    // A suspect point stops all removal.
    keeper.apply(&Entry::Mark {
        repository: "pacs".into(),
        snapshot: name(&random, Kind::Snapshots).id,
        verdict: Mark::Suspect,
    });
    assert!(keeper.plan("pacs", &good).0.is_empty());
}

#[test]
fn a_promise_only_grows_and_officers_shorten_it_after_a_day() {
    let random = SeededRandom::new(3);
    let mut keeper = Keeper::new(
        Rules { days: 10, ..Rules::default() },
        Time::begin("a", Duration::ZERO, Timestamp::UNIX_EPOCH),
    );
    let file = name(&random, Kind::Data);
    let keep = |keeper: &mut Keeper, days| {
        for entry in keeper.keep("pacs", &[file], days) {
            keeper.apply(&entry);
        }
    };
    keep(&mut keeper, 400);
    keep(&mut keeper, 1);
    let at = |keeper: &mut Keeper, days: u64| {
        let now = Duration::from_secs(days * DAY);
        keeper.time.tick("a", now, Timestamp::from_second(i64::try_from(days * DAY).unwrap()).unwrap());
        keeper.plan("pacs", &[file]).0.len()
    };
    assert_eq!(at(&mut keeper, 50), 0, "the shorter wish changed nothing");
    let from_s = keeper.time.seconds() + keeper.rules.delay_s;
    keeper.apply(&Entry::Shrink { repository: "pacs".into(), days: 20, from_s, nonce: "n".into() });
    assert_eq!(at(&mut keeper, 60), 0, "twenty days from when it counts, which is day 51");
    assert_eq!(at(&mut keeper, 72), 1);
    assert_eq!(keeper.plan("billing", &[file]).0.len(), 0, "another repository's file was never locked here");
}
