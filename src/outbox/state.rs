//! What is kept of lanes over a restart beside their events: pauses, waits, counters. Few and small: one SQLite file.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use super::lane::LaneState;
use super::{Pause, PausedBy};
use crate::account::LaneKey;

/// The open file.
pub(crate) struct StateFile {
    connection: Connection,
}

/// The format that this code writes, kept as SQLite's `user_version`.
const VERSION: i64 = 1;

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

// === impl StateFile ===

impl StateFile {
    /// Opens or makes the file and reads all lanes.
    pub(crate) fn open(path: &Path) -> rusqlite::Result<(Self, Vec<(LaneKey, LaneState)>)> {
        let connection = Connection::open(path)?;
        // Before WAL: its index is then in this process's memory, and a full volume need not have room for another file.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        match connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?,
            VERSION => {}
            newer => return Err(rusqlite::Error::IntegralValueOutOfRange(0, newer)),
        }
        let mut select = connection.prepare("SELECT * FROM lanes")?;
        let lanes = select.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
        drop(select);
        Ok((Self { connection }, lanes))
    }

    /// Writes lanes, durable when it returns.
    pub(crate) fn save(&mut self, lanes: &[(LaneKey, LaneState)]) -> rusqlite::Result<()> {
        if lanes.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        let mut insert =
            transaction.prepare_cached("INSERT OR REPLACE INTO lanes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
        for (key, state) in lanes {
            let pause = state.paused.as_ref();
            insert.execute(params![
                key.account.as_str(),
                key.pixel.to_string(),
                pause.map(|pause| pause.by.as_str()),
                pause.map(|pause| pause.reason.as_str()),
                pause.map(|pause| pause.since_ms),
                state.not_before_ms,
                state.failures,
                state.delivered.cast_signed(),
                state.dead.cast_signed(),
            ])?;
        }
        drop(insert);
        transaction.commit()
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(LaneKey, LaneState)> {
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
    let state = LaneState {
        paused,
        not_before_ms: row.get("not_before_ms")?,
        failures: row.get("failures")?,
        delivered: row.get::<_, i64>("delivered")?.cast_unsigned(),
        dead: row.get::<_, i64>("dead")?.cast_unsigned(),
    };
    Ok((key, state))
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
        let paused = LaneState { paused: Some(pause), not_before_ms: 9, failures: 2, delivered: 70, dead: 1 };

        let (mut state, lanes) = StateFile::open(&path).unwrap();
        assert!(lanes.is_empty());
        state.save(&[(key.clone(), LaneState::default())]).unwrap();
        state.save(&[(key.clone(), paused.clone())]).unwrap();
        drop(state);
        assert_eq!(StateFile::open(&path).unwrap().1, [(key, paused)]);
    }

    #[test]
    fn a_newer_format_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        drop(StateFile::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(StateFile::open(&path).is_err());
    }
}
