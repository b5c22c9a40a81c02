//! A management controller: the Redfish emulator of OpenStack's sushy-tools with its fake system, which acts
//! some time after it has acknowledged. Its clock runs fast, so that this is a second instead of ten.

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Rig, sh, wait};

const UUID: &str = "27946b59-9e44-4fa7-8e91-f3527a1ef094";

/// The emulator at the switch's management address.
#[derive(Debug)]
pub(crate) struct Controller {
    folder: PathBuf,
    child: Option<Child>,
    pin: String,
}

/// The emulator of `scripts/setup test`, which makes an environment of Python for it.
fn emulator() -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let places = [super::target().join("tools"), root.join("target/tools")];
    let found = places.into_iter().map(|place| place.join("bin/sushy-emulator")).find(|path| path.exists());
    found.expect("scripts/setup test installs the Redfish emulator")
}

impl Controller {
    pub(crate) fn start(rig: &Rig) -> Self {
        let folder = rig.path("bmc");
        fs_err::create_dir(&folder).unwrap();
        let at = |name: &str| folder.join(name).display().to_string();
        sh(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=bmc -keyout {} -out {} 2>&1",
            at("key"),
            at("certificate")
        ));
        let pin = sh(&format!(
            "openssl x509 -in {} -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
            at("certificate")
        ));
        let hash = sh(&format!(
            "{} -c \"import bcrypt;print(bcrypt.hashpw(b'gate-pass', bcrypt.gensalt(4)).decode())\"",
            emulator().with_file_name("python3").display()
        ));
        fs_err::write(folder.join("users"), format!("gate:{}\n", hash.trim())).unwrap();
        fs_err::write(folder.join("password"), "gate-pass\n").unwrap();
        let config = format!(
            "SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_LISTEN_IP = '192.0.2.2'\nSUSHY_EMULATOR_LISTEN_PORT = 443\n\
             SUSHY_EMULATOR_SSL_CERT = '{}'\nSUSHY_EMULATOR_SSL_KEY = '{}'\nSUSHY_EMULATOR_AUTH_FILE = '{}'\n\
             SUSHY_EMULATOR_STATE_DIR = '{}'\n\
             SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{UUID}', 'name': 'line', 'power_state': 'On', \
             'external_notifier': False, 'nics': []}}]\n",
            at("certificate"),
            at("key"),
            at("users"),
            folder.display()
        );
        fs_err::write(folder.join("emulator.conf"), config).unwrap();
        let log = fs_err::File::create(folder.join("log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &rig.ns("sw"), "faketime", "-f", "+0 x10"])
            .arg(emulator())
            .args(["--fake", "--config"])
            .arg(folder.join("emulator.conf"))
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.into_parts().0))
            .process_group(0)
            .spawn()
            .unwrap();
        let controller = Self { folder, child: Some(child), pin: pin.trim().to_owned() };
        wait("the Redfish emulator", Duration::from_secs(20), || {
            rig.exec("sw", "curl -sk https://192.0.2.2/redfish/v1/ -o /dev/null").0
        });
        controller
    }

    /// The table `[redfish]`.
    pub(crate) fn config(&self) -> String {
        format!(
            "address = \"192.0.2.2:443\"\nuser = \"gate\"\npassword_file = \"{}\"\npublic_key_sha256 = \"{}\"\n\
             uuid = \"{UUID}\"\n",
            self.folder.join("password").display(),
            self.pin
        )
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // `faketime` is a process of its own before the emulator.
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
            let _ = child.wait();
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop();
    }
}
