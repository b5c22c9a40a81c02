//! A power distribution unit: net-snmp's agent with the objects of one family behind it, kept by a program
//! that does what each number means there, traps included.

use std::path::PathBuf;

use super::Rig;

/// One outlet (number 3, unit 1) of a unit of some family.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    program: PathBuf,
    state: PathBuf,
    log: PathBuf,
    object_id: &'static str,
}

const PROGRAM: &str = r#"
import sys
family, spoil, state, log = sys.argv[1:5]
V = ".1.3.6.1.4.1.318.1.1."
# command object, {number: what it does}, state object, {power: number}
F = {
 "rpdu": (V+"12.3.3.1.1.4.3", {1:"on",2:"off"}, V+"12.3.5.1.1.4.3", {"on":1,"off":2}),
 "rpdu2": (V+"26.9.2.4.1.5.3", {1:"on",2:"off"}, V+"26.9.2.3.1.5.3", {"on":1,"off":2}),
 "cpdu": (V+"32.5.5.1.4.1.3", {1:"off",2:"on"}, V+"32.5.4.1.4.1.3", {"on":1,"off":0}),
 "msp": (V+"6.5.1.1.5.1.1.3", {1:"on",2:"on",3:"off",6:"on"}, V+"6.7.1.1.5.1.1.3", {"on":1,"off":2}),
}
command, does, shown, numbers = F[family]
def answer(*lines):
    for line in lines: print(line)
    sys.stdout.flush()
while True:
    line = sys.stdin.readline()
    if not line: break
    verb = line.strip().lower()
    if verb == "ping": answer("PONG")
    elif verb in ("get", "getnext"):
        oid = sys.stdin.readline().strip()
        power = open(state).read().strip()
        if verb == "get" and oid == shown and spoil != "stateless":
            answer(oid, "integer", 77 if spoil == "strange" else numbers[power])
        elif verb == "get" and oid == command: answer(oid, "integer", 4)
        else: answer("NONE")
    elif verb == "set":
        oid = sys.stdin.readline().strip()
        value = int(sys.stdin.readline().split()[-1])
        open(log, "a").write("%s=%d\n" % (oid, value))
        if oid != command: answer("not-writable")
        elif value not in does: answer("wrong-value")
        else:
            if spoil != "lying": open(state, "w").write(does[value])
            answer("DONE")
"#;

impl Outlet {
    pub(crate) fn new(rig: &Rig, family: &str, spoil: &str) -> Self {
        let object_id = match family {
            "rpdu" => ".1.3.6.1.4.1.318.1.3.4.5",
            "rpdu2" => ".1.3.6.1.4.1.318.1.3.4.6",
            "cpdu" => ".1.3.6.1.4.1.318.1.3.4.9",
            _ => ".1.3.6.1.4.1.318.1.3.4.4",
        };
        let (script, program) = (rig.path("outlet.py"), rig.path("outlet"));
        let (state, log) = (rig.path("outlet.state"), rig.path("outlet.log"));
        fs_err::write(&script, PROGRAM).unwrap();
        let line = format!(
            "#!/bin/sh\nexec python3 -u {} {family} '{spoil}' {} {}\n",
            script.display(),
            state.display(),
            log.display()
        );
        fs_err::write(&program, line).unwrap();
        super::sh(&format!("chmod 755 {}", program.display()));
        fs_err::write(&state, "on").unwrap();
        // What an earlier one was told.
        let _ = fs_err::remove_file(&log);
        Self { program, state, log, object_id }
    }

    /// What really is: `on` or `off`.
    pub(crate) fn power(&self) -> String {
        fs_err::read_to_string(&self.state).unwrap().trim().to_owned()
    }

    /// Everything that was ever set.
    pub(crate) fn commands(&self) -> String {
        fs_err::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Rig {
    /// Starts the unit's agent at the switch's management address.
    pub(crate) fn start_outlet(&mut self, outlet: &Outlet) {
        let vendor = ".1.3.6.1.4.1.318.1.1";
        self.start_snmpd_with(&format!(
            "sysobjectid {}\nview gr included .1.3.6.1.2.1.1.2\nview gr included {vendor}\nview gw included {vendor}\n\
             pass_persist {vendor} {}\n",
            outlet.object_id,
            outlet.program.display()
        ));
    }
}
