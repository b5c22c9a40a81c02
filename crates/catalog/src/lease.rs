//! What only one of several servers may do at a time, by name: judging, keeping a repository in order. Claimed
//! by compare-and-swap with owner and epoch, held in accumulated time; a server that dies loses it.

use std::time::Duration;

use crate::{
    Catalog, Result,
    codec::{length, signed, unsigned},
    sql,
};

/// A lease that is ours until its time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who holds it.
    pub owner: String,
    /// Grows each time that it changes hands.
    pub epoch: u64,
}

impl Catalog {
    /// Takes or prolongs a lease; none while another owner's still runs.
    pub async fn lease(&self, name: &str, owner: &str, time: Duration) -> Result<Option<Lease>> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let epoch: Option<i64> = sql::query_scalar(
            "INSERT INTO leases (name, owner, epoch, lease_until) VALUES ($1, $2, 1, $3)
             ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until,
                epoch = CASE WHEN leases.owner = excluded.owner THEN leases.epoch ELSE leases.epoch + 1 END
             WHERE leases.owner = excluded.owner OR leases.lease_until < $4
             RETURNING epoch",
        )
        .bind(name)
        .bind(owner)
        .bind(length(stamp.age + time))
        .bind(length(stamp.age))
        .fetch_optional(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(epoch.map(|epoch| Lease {
            name: name.to_owned(),
            owner: owner.to_owned(),
            epoch: unsigned(epoch),
        }))
    }

    /// Gives a lease back before its time; one that was lost meanwhile stays with its new owner.
    pub async fn release(&self, lease: &Lease) -> Result<()> {
        sql::query("UPDATE leases SET lease_until = -1 WHERE name = $1 AND owner = $2 AND epoch = $3")
            .bind(&lease.name)
            .bind(&lease.owner)
            .bind(signed(lease.epoch))
            .execute(self.writer())
            .await?;
        Ok(())
    }
}
