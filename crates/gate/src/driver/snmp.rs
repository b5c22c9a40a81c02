//! SNMPv3 with authentication and privacy, as the layers need it: strict about the answer's shape, a session
//! made anew each time (a restarted agent has new engine boots, and an old session would fail).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use async_snmp::{
    AuthProtocol, Client, Oid, PrivProtocol, ResponseShapePolicy, Retry, UsmConfig, Value, WalkOptions, oid,
};

use crate::fault::ActuatorFault;

/// One device, and the login that may control it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) address: SocketAddr,
    user: UsmConfig,
    timeout: Duration,
    sys_name: String,
    runtime: tokio::runtime::Runtime,
}

impl Device {
    /// Reads the passwords (SHA-256, AES-128) once: closing later needs no disk.
    pub(crate) fn new(
        address: SocketAddr,
        user: &str,
        (auth_file, priv_file): (&PathBuf, &PathBuf),
        sys_name: &str,
        timeout_ms: u64,
    ) -> Result<Self, ActuatorFault> {
        let fault = |what: String| ActuatorFault::Switch { address: address.to_string(), what };
        let secret = |path: &PathBuf| {
            fs_err::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| fault(error.to_string()))
        };
        let (auth, privacy) = (secret(auth_file)?, secret(priv_file)?);
        let user = UsmConfig::new(user.to_owned())
            .auth_priv(AuthProtocol::Sha256, auth.as_str(), PrivProtocol::Aes128, privacy.as_str())
            .map_err(|error| fault(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| fault(error.to_string()))?;
        let timeout = Duration::from_millis(timeout_ms);
        Ok(Self { address, user, timeout, sys_name: sys_name.to_owned(), runtime })
    }

    pub(crate) fn fault(&self, what: &dyn std::fmt::Display) -> ActuatorFault {
        ActuatorFault::Switch { address: self.address.to_string(), what: what.to_string() }
    }

    /// Does something in a session with the device that has the configured name.
    pub(crate) fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Session<'_>) -> Result<T, ActuatorFault>,
    ) -> Result<T, ActuatorFault> {
        self.runtime.block_on(async { work(&self.session().await?).await })
    }

    async fn session(&self) -> Result<Session<'_>, ActuatorFault> {
        let retry = Retry::fixed(2, Duration::from_millis(100)).map_err(|error| self.fault(&error))?;
        let client = Client::builder(self.address, self.user.clone())
            .response_shape_policy(ResponseShapePolicy::Strict)
            .request_timeout(self.timeout)
            .retry(retry)
            .connect()
            .await
            .map_err(|error| self.fault(&error))?;
        let session = Session { device: self, client };
        let name = session.text(&oid!(1, 3, 6, 1, 2, 1, 1, 5, 0)).await?;
        if name != self.sys_name {
            return Err(ActuatorFault::Identity(format!("sysName is `{name}`, not `{}`", self.sys_name)));
        }
        Ok(session)
    }
}

/// A session with a device whose `sysName` is the configured one.
pub(crate) struct Session<'a> {
    device: &'a Device,
    client: Client,
}

impl Session<'_> {
    pub(crate) async fn value(&self, object: &Oid) -> Result<Value, ActuatorFault> {
        let answer = self.client.get(object).await.map_err(|error| self.device.fault(&error))?;
        let one = answer.single().ok_or_else(|| self.device.fault(&"its answer has another shape"))?;
        Ok(one.value.clone())
    }

    pub(crate) async fn text(&self, object: &Oid) -> Result<String, ActuatorFault> {
        match self.value(object).await? {
            Value::OctetString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            other => Err(self.device.fault(&format!("{object} is {other:?}, not a text"))),
        }
    }

    pub(crate) async fn number(&self, object: &Oid) -> Result<i32, ActuatorFault> {
        match self.value(object).await? {
            Value::Integer(number) => Ok(number),
            other => Err(self.device.fault(&format!("{object} is {other:?}, not a number"))),
        }
    }

    pub(crate) async fn set(&self, object: &Oid, number: i32) -> Result<(), ActuatorFault> {
        let answer = self.client.set(object, Value::Integer(number)).await;
        answer.map(drop).map_err(|error| self.device.fault(&error))
    }

    /// The last numbers of the objects below `column` whose text is `wanted`.
    pub(crate) async fn rows(&self, column: &Oid, wanted: &str) -> Result<Vec<u32>, ActuatorFault> {
        let mut walk = self
            .client
            .walk_with(column.clone(), WalkOptions::default())
            .map_err(|error| self.device.fault(&error))?;
        let mut found = Vec::new();
        while let Some(one) = walk.next().await {
            let one = one.map_err(|error| self.device.fault(&error))?;
            if let Value::OctetString(name) = &one.value
                && name.as_ref() == wanted.as_bytes()
                && let Some(index) = one.oid.arcs().last()
            {
                found.push(*index);
            }
        }
        Ok(found)
    }
}
