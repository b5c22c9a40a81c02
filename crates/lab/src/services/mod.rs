//! The departments' real servers, each with a configuration of our own under the lab's root, in the
//! foreground of its host's namespace.

pub mod billing;
pub mod directory;
pub mod laboratory;
pub mod mail;
pub mod ophthalmology;
pub mod pacs;
pub mod pathology;
mod samba;
pub mod switch;
pub mod ward;
pub mod witness;

use std::{path::Path, sync::mpsc};

use crate::{
    error::{LabError, Result},
    lab::{Lab, Service},
    program::Program,
};

/// Seconds after which a login without an answer is none: clients try a dead domain for half a minute.
const SOON: u32 = 4;

/// Starts all that the lab was asked for; the ones that must fill themselves do that side by side.
pub(crate) fn start(lab: &Lab) -> Result<()> {
    let wanted = |service| lab.what().services.contains(&service);
    // Ophthalmology joins the domain when there is one; if there never is, its sender is dropped.
    let (tell, told) = mpsc::channel();
    let (mut tell, mut told) = (Some(tell), Some(told));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for service in Service::ALL.into_iter().filter(|service| wanted(*service)) {
            let tell = if service == Service::Directory { tell.take() } else { None };
            let told = if service == Service::Ophthalmology { told.take() } else { None };
            threads.push(scope.spawn(move || match service {
                Service::Directory => {
                    lab.directory().create()?;
                    // Nobody may be waiting.
                    let _ = tell.map(|tell| tell.send(()));
                    Ok(())
                }
                Service::Billing => lab.billing().create(),
                Service::Pacs => lab.pacs().create(),
                Service::Ophthalmology => lab.ophthalmology().create(|| {
                    let gone = LabError::NoService("the directory");
                    told.and_then(|told| told.recv().ok()).ok_or(gone)
                }),
                Service::Laboratory => lab.laboratory().create(),
                Service::Pathology => lab.pathology().create(),
                Service::Ward => lab.ward().create(),
                Service::Mail => lab.mail().start(),
                Service::Switch => lab.switch().start(),
                Service::Witness => lab.witness().start(),
            }));
        }
        for thread in threads {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

/// Makes a folder for a server that runs as `user`.
pub(crate) fn folder_of(user: &str, folder: &Path) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    owned_by(user, folder)
}

/// Gives a tree to a user and the group of the same name.
pub(crate) fn owned_by(user: &str, folder: &Path) -> Result<()> {
    Program::new("chown").args(["-R", "-h", &format!("{user}:{user}")]).arg(folder).run().map(drop)
}

impl Lab {
    /// The directory's domain controller.
    pub fn directory(&self) -> directory::Directory<'_> {
        directory::Directory::of(self)
    }

    /// Billing's PostgreSQL.
    pub fn billing(&self) -> billing::Billing<'_> {
        billing::Billing::of(self)
    }

    /// The picture archive's Orthanc.
    pub fn pacs(&self) -> pacs::Pacs<'_> {
        pacs::Pacs::of(self)
    }

    /// Ophthalmology's share.
    pub fn ophthalmology(&self) -> ophthalmology::Ophthalmology<'_> {
        ophthalmology::Ophthalmology::of(self)
    }

    /// The laboratory's MariaDB.
    pub fn laboratory(&self) -> laboratory::Laboratory<'_> {
        laboratory::Laboratory::of(self)
    }

    /// Pathology's SFTP.
    pub fn pathology(&self) -> pathology::Pathology<'_> {
        pathology::Pathology::of(self)
    }

    /// The ward system with its other backup product.
    pub fn ward(&self) -> ward::Ward<'_> {
        ward::Ward::of(self)
    }

    /// The mail server.
    pub fn mail(&self) -> mail::Mail<'_> {
        mail::Mail::of(self)
    }

    /// The guarded switch.
    pub fn switch(&self) -> switch::Switch<'_> {
        switch::Switch::of(self)
    }

    /// The witness behind the gate.
    pub fn witness(&self) -> witness::Witness<'_> {
        witness::Witness::of(self)
    }
}
