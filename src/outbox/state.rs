//! What is kept of lanes over a restart beside their events: pauses, waits, counters. Few and small: one SQLite file.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use super::lane::{Counts, LaneState};
use super::{Pause, PausedBy};
use crate::account::LaneKey;

/// The open file.
pub(crate) struct StateFile {
    connection: Connection,
    /// The format of the file; an older one is brought up to date when something is written.
    version: i64,
}

/// The format that this code writes, kept as SQLite's `user_version`.
const VERSION: i64 = 2;

const SCHEMA: &str = "
    CREATE TABLE lanes (
        account       TEXT    NOT NULL,
        pixel         TEXT    NOT NULL,
        paused_by     TEXT,              -- 'operator' or 'delivery'; NULL when not paused
        paused_reason TEXT,
        paused_ms     INTEGER,           -- Unix milliseconds
        not_before_ms INTEGER NOT NULL,  -- Unix milliseconds, 0 for none
        failures      INTEGER NOT NULL,  -- retries since the last success
        delivered     INTEGER NOT NULL,  -- events since the first start
        dead          INTEGER NOT NULL,  -- events since the first start
        PRIMARY KEY (account, pixel)
    ) WITHOUT ROWID;
    PRAGMA user_version = 1;
";

/// What version 2 has more: events since the first start.
const SINCE_2: &str = "
    ALTER TABLE lanes ADD COLUMN tested    INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE lanes ADD COLUMN uncounted INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE lanes ADD COLUMN expired   INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE lanes ADD COLUMN purged    INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE lanes ADD COLUMN damaged   INTEGER NOT NULL DEFAULT 0;
    PRAGMA user_version = 2;
";

// === impl StateFile ===

impl StateFile {
    /// Opens or makes the file and reads all lanes.
    pub(crate) fn open(path: &Path) -> rusqlite::Result<(Self, Vec<(LaneKey, LaneState)>)> {
        let connection = Connection::open(path)?;
        // Before WAL: its index is then in this process's memory, and a full volume need not have room for another file.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let version = match connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
            0 => {
                connection.execute_batch(&format!("BEGIN; {SCHEMA} {SINCE_2} COMMIT;"))?;
                VERSION
            }
            known @ 1..=VERSION => known,
            newer => return Err(rusqlite::Error::IntegralValueOutOfRange(0, newer)),
        };
        let mut select = connection.prepare("SELECT * FROM lanes")?;
        let lanes = select.query_map([], |row| read(row, version))?.collect::<rusqlite::Result<_>>()?;
        drop(select);
        Ok((Self { connection, version }, lanes))
    }

    /// Removes the lanes that were forgotten, then writes those that changed, which may be the same again; durable when it
    /// returns.
    pub(crate) fn save(&mut self, forgotten: &[LaneKey], lanes: &[(LaneKey, LaneState)]) -> rusqlite::Result<()> {
        if forgotten.is_empty() && lanes.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        if self.version < VERSION {
            transaction.execute_batch(SINCE_2)?;
        }
        let mut delete = transaction.prepare_cached("DELETE FROM lanes WHERE account = ?1 AND pixel = ?2")?;
        for key in forgotten {
            delete.execute(params![key.account.as_str(), key.pixel.to_string()])?;
        }
        drop(delete);
        let values = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14";
        let mut insert = transaction.prepare_cached(&format!("INSERT OR REPLACE INTO lanes VALUES ({values})"))?;
        for (key, state) in lanes {
            let (pause, counts) = (state.paused.as_ref(), state.counts);
            insert.execute(params![
                key.account.as_str(),
                key.pixel.to_string(),
                pause.map(|pause| pause.by.as_str()),
                pause.map(|pause| pause.reason.as_str()),
                pause.map(|pause| pause.since_ms),
                state.not_before_ms,
                state.failures,
                counts.delivered.cast_signed(),
                counts.dead.cast_signed(),
                counts.tested.cast_signed(),
                counts.uncounted.cast_signed(),
                counts.expired.cast_signed(),
                counts.purged.cast_signed(),
                counts.damaged.cast_signed(),
            ])?;
        }
        drop(insert);
        transaction.commit()?;
        self.version = VERSION;
        Ok(())
    }
}

fn read(row: &Row<'_>, version: i64) -> rusqlite::Result<(LaneKey, LaneState)> {
    let malformed =
        |column| move |_| rusqlite::Error::InvalidColumnType(column, "id".into(), rusqlite::types::Type::Text);
    let key = LaneKey {
        account: row.get::<_, String>("account")?.parse().map_err(malformed(0))?,
        pixel: row.get::<_, String>("pixel")?.parse().map_err(malformed(1))?,
    };
    let by = row.get::<_, Option<String>>("paused_by")?;
    let paused = match by {
        None => None,
        Some(by) => Some(Pause {
            reason: row.get("paused_reason")?,
            by: if by == PausedBy::Delivery.as_str() { PausedBy::Delivery } else { PausedBy::Operator },
            since_ms: row.get("paused_ms")?,
        }),
    };
    let count = |since, column| match version < since {
        true => Ok(0),
        false => row.get::<_, i64>(column).map(i64::cast_unsigned),
    };
    let counts = Counts {
        delivered: count(1, "delivered")?,
        dead: count(1, "dead")?,
        tested: count(2, "tested")?,
        uncounted: count(2, "uncounted")?,
        expired: count(2, "expired")?,
        purged: count(2, "purged")?,
        damaged: count(2, "damaged")?,
    };
    let (not_before_ms, failures) = (row.get("not_before_ms")?, row.get("failures")?);
    Ok((key, LaneState { paused, not_before_ms, failures, counts }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lanes_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let key = LaneKey { account: "shoes".parse().unwrap(), pixel: "18446744073709551615".parse().unwrap() };
        let pause = Pause { reason: "token refused".into(), by: PausedBy::Delivery, since_ms: 5 };
        let counts = Counts { delivered: 70, tested: 6, uncounted: 5, dead: 1, expired: 4, purged: 3, damaged: 2 };
        let paused = LaneState { paused: Some(pause), not_before_ms: 9, failures: 2, counts };

        let (mut state, lanes) = StateFile::open(&path).unwrap();
        assert!(lanes.is_empty());
        let forgotten = LaneKey { account: "hats".parse().unwrap(), ..key.clone() };
        state.save(&[], &[(key.clone(), LaneState::default()), (forgotten.clone(), LaneState::default())]).unwrap();
        // One that was forgotten and came back at once is kept as it is now.
        state.save(&[forgotten, key.clone()], &[(key.clone(), paused.clone())]).unwrap();
        drop(state);
        assert_eq!(StateFile::open(&path).unwrap().1, [(key, paused)]);
    }

    #[test]
    fn an_older_format_is_brought_up_to_date_by_the_first_save() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(SCHEMA).unwrap();
        old.execute_batch("INSERT INTO lanes VALUES ('shoes', '1', NULL, NULL, NULL, 0, 2, 70, 1)").unwrap();
        drop(old);
        let (mut state, mut lanes) = StateFile::open(&path).unwrap();
        let (_, shoes) = lanes.first_mut().unwrap();
        assert_eq!((shoes.failures, shoes.counts), (2, Counts { delivered: 70, dead: 1, ..Counts::default() }));
        shoes.counts.tested = 9;
        state.save(&[], &lanes).unwrap();
        state.save(&[], &lanes).unwrap();
        drop(state);
        assert_eq!(StateFile::open(&path).unwrap().1, lanes);
    }

    #[test]
    fn a_newer_format_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        drop(StateFile::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        assert!(StateFile::open(&path).is_err());
    }
}
