//! Hosts and wires: they carry what they should, and leave nothing behind.
use kuramori_lab::{Files, Lab, Program, Role, What, down};

#[test]
fn up_and_down_leave_the_machine_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = format!("kt{}a", std::process::id() % 100_000);
    let before = Lab::host_fingerprint(&prefix).unwrap();
    let lab = Lab::up(&prefix, &folder.path().join("lab"), What::network()).unwrap();
    lab.host(Role::Vlt).plug(true).unwrap();
    for (from, to) in
        [(Role::Srv, Role::Bil), (Role::Bil, Role::Vlt), (Role::Pul, Role::Srv), (Role::Srv, Role::Sw)]
    {
        let ping = Program::new("ping").args(["-c1", "-W2", &to.address().to_string()]);
        lab.host(from).run(&ping).unwrap();
    }
    let done = lab.down(Files::Remove).unwrap();
    assert_eq!(done.differences, Vec::<String>::new());
    assert_eq!(before.differences(&Lab::host_fingerprint(&prefix).unwrap()), Vec::<String>::new());
    let _ = down;
}
