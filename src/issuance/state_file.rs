//! What is known of names and budgets, on disk: one small SQLite file.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use crate::account::ServerName;
use crate::issuance::budget::{Key, Limit};
use crate::issuance::state::{NameState, OpenOrder, Proof, Renewal};
use crate::sqlite;

/// The open file.
pub(super) struct StateFile {
    connection: Connection,
}

/// All that a file holds.
pub(super) struct Kept {
    pub(super) names: Vec<(ServerName, NameState)>,
    pub(super) budgets: Vec<(Key, i64)>,
}

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It is whole, but of a later version of this program.
    #[error("it has format {0}, and this version reads formats up to {VERSION}")]
    Newer(i64),
    /// It is not what it should be.
    #[error("it is damaged: {0}")]
    Damaged(rusqlite::Error),
    /// It cannot be used for reasons that lie outside of it.
    #[error(transparent)]
    Unusable(rusqlite::Error),
}

/// The format that this code writes, kept as SQLite's `user_version`.
const VERSION: i64 = 3;

const SCHEMA: &str = "
    CREATE TABLE names (
        name          TEXT    NOT NULL PRIMARY KEY,
        issued_by     TEXT,
        order_account TEXT,
        order_url     TEXT,
        failures      INTEGER NOT NULL,
        not_before_ms INTEGER NOT NULL,  -- Unix milliseconds, 0 for none
        error         TEXT,
        renewal_of    INTEGER,           -- Unix seconds; NULL when the CA was not asked
        renewal_at_ms INTEGER NOT NULL,
        window_start  INTEGER NOT NULL,
        window_end    INTEGER NOT NULL,
        look_ms       INTEGER NOT NULL,
        offered       INTEGER NOT NULL,
        forced        INTEGER NOT NULL,
        asked         INTEGER NOT NULL,
        issued_in     TEXT,
        issued_ms     INTEGER NOT NULL,  -- Unix milliseconds, 0 for never
        unseen        INTEGER NOT NULL,
        failed_of     INTEGER NOT NULL,  -- Unix seconds, 0 for nothing
        proof         TEXT,
        order_part    INTEGER NOT NULL,
        order_ms      INTEGER NOT NULL,  -- Unix milliseconds
        order_at      TEXT,
        failed_with   TEXT
    ) WITHOUT ROWID;
    CREATE TABLE budgets (
        scope   TEXT    NOT NULL,        -- a CA account's name, or a CA's directory
        what    TEXT    NOT NULL,
        subject TEXT    NOT NULL,
        paid_ms INTEGER NOT NULL,        -- Unix milliseconds
        PRIMARY KEY (scope, what, subject)
    ) WITHOUT ROWID;
    PRAGMA user_version = 3;
";

/// From format 1, which counted certificates by account and did not know which CA issued one, or has an order.
const FROM_1: &str = "
    ALTER TABLE names ADD COLUMN issued_in  TEXT;
    ALTER TABLE names ADD COLUMN issued_ms  INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE names ADD COLUMN unseen     INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE names ADD COLUMN failed_of  INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE names ADD COLUMN proof      TEXT;
    ALTER TABLE names ADD COLUMN order_part INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE names ADD COLUMN order_ms   INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE names ADD COLUMN order_at   TEXT;
    ALTER TABLE budgets RENAME COLUMN account TO scope;
    DELETE FROM budgets WHERE what IN ('domain', 'duplicates');
";

/// From format 2, which did not know on what a failure depended, and held an account's trouble against names.
const FROM_2: &str = "
    ALTER TABLE names ADD COLUMN failed_with TEXT;
    UPDATE names SET error = NULL, failed_of = 0 WHERE failures = 0;
    PRAGMA user_version = 3;
";

// === impl OpenError ===

impl From<rusqlite::Error> for OpenError {
    /// A full disk, or a file that is another's, is not mended by putting the file aside.
    fn from(error: rusqlite::Error) -> Self {
        if sqlite::refusal(&error).is_some() { Self::Unusable(error) } else { Self::Damaged(error) }
    }
}

// === impl StateFile ===

impl StateFile {
    /// Opens or makes the file and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Kept), OpenError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        match connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?,
            1 => connection.execute_batch(&format!("BEGIN; {FROM_1} {FROM_2} COMMIT;"))?,
            2 => connection.execute_batch(&format!("BEGIN; {FROM_2} COMMIT;"))?,
            VERSION => {}
            newer => return Err(OpenError::Newer(newer)),
        }
        let names = connection.prepare("SELECT * FROM names")?.query_map([], read_name)?.collect::<Result<_, _>>()?;
        let mut select = connection.prepare("SELECT scope, what, subject, paid_ms FROM budgets")?;
        let cells = select.query_map([], read_cell)?.collect::<Result<Vec<_>, _>>()?;
        drop(select);
        let kept = Kept { names, budgets: cells.into_iter().flatten().collect() };
        Ok((Self { connection }, kept))
    }

    /// Writes names and budgets, durable when it returns. `None` removes.
    pub(super) fn save(
        &mut self,
        names: &[(ServerName, Option<NameState>)],
        budgets: &[(Key, Option<i64>)],
    ) -> rusqlite::Result<()> {
        if names.is_empty() && budgets.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        for (name, state) in names {
            match state {
                Some(state) => write_name(&transaction, name, state)?,
                None => {
                    transaction.prepare_cached("DELETE FROM names WHERE name = ?1")?.execute([name.as_str()])?;
                }
            }
        }
        for (key, paid) in budgets {
            let (scope, what, subject) = (&*key.scope, key.limit.as_str(), &*key.subject);
            match paid {
                Some(paid) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO budgets VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![scope, what, subject, paid])?,
                None => transaction
                    .prepare_cached("DELETE FROM budgets WHERE scope = ?1 AND what = ?2 AND subject = ?3")?
                    .execute(params![scope, what, subject])?,
            };
        }
        transaction.commit()
    }
}

fn write_name(connection: &Connection, name: &ServerName, state: &NameState) -> rusqlite::Result<()> {
    let none = Renewal { of: 0, offered: false, at_ms: 0, window: (0, 0), look_ms: 0 };
    let renewal = state.renewal.as_ref();
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO names (name, issued_by, order_account, order_url, failures, not_before_ms, error, \
         renewal_of, renewal_at_ms, window_start, window_end, look_ms, offered, forced, asked, issued_in, issued_ms, \
         unseen, failed_of, proof, order_part, order_ms, order_at, failed_with) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
         ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)",
    )?;
    insert.execute(params![
        name.as_str(),
        state.issued_by.as_deref(),
        state.order.as_ref().map(|order| &*order.account),
        state.order.as_ref().map(|order| &*order.url),
        state.failures,
        state.not_before_ms,
        state.error.as_deref(),
        renewal.map(|renewal| renewal.of),
        renewal.unwrap_or(&none).at_ms,
        renewal.unwrap_or(&none).window.0,
        renewal.unwrap_or(&none).window.1,
        renewal.unwrap_or(&none).look_ms,
        renewal.unwrap_or(&none).offered,
        state.forced,
        state.asked,
        state.issued_in.as_deref(),
        state.issued_ms,
        state.unseen,
        state.failed_of,
        state.proof.map(Proof::as_str),
        state.order.as_ref().is_some_and(|order| order.part),
        state.order.as_ref().map_or(0, |order| order.begun_ms),
        state.order.as_ref().map(|order| &*order.directory),
        state.failed_with.as_deref(),
    ])?;
    Ok(())
}

fn read_name(row: &Row<'_>) -> rusqlite::Result<(ServerName, NameState)> {
    let malformed = |_| rusqlite::Error::InvalidColumnType(0, "name".into(), rusqlite::types::Type::Text);
    let text =
        |column: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<String>>(column)?.map(String::into_boxed_str));
    let order = match (text("order_account")?, text("order_at")?, text("order_url")?) {
        (Some(account), Some(directory), Some(url)) => {
            let (part, begun_ms) = (row.get("order_part")?, row.get("order_ms")?);
            Some(OpenOrder { account, directory, url, part, begun_ms })
        }
        _ => None,
    };
    let renewal = match row.get::<_, Option<i64>>("renewal_of")? {
        Some(of) => Some(Renewal {
            of,
            offered: row.get("offered")?,
            at_ms: row.get("renewal_at_ms")?,
            window: (row.get("window_start")?, row.get("window_end")?),
            look_ms: row.get("look_ms")?,
        }),
        None => None,
    };
    let state = NameState {
        issued_by: text("issued_by")?,
        order,
        failures: row.get("failures")?,
        not_before_ms: row.get("not_before_ms")?,
        error: text("error")?,
        renewal,
        forced: row.get("forced")?,
        asked: row.get("asked")?,
        issued_in: text("issued_in")?,
        issued_ms: row.get("issued_ms")?,
        unseen: row.get("unseen")?,
        failed_of: row.get("failed_of")?,
        failed_with: text("failed_with")?,
        proof: text("proof")?.and_then(|proof| Proof::parse(&proof)),
    };
    Ok((row.get::<_, String>("name")?.parse().map_err(malformed)?, state))
}

/// A cell; `None` is one of a limit that this version does not know.
fn read_cell(row: &Row<'_>) -> rusqlite::Result<Option<(Key, i64)>> {
    let (scope, what, subject): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let Some(limit) = Limit::parse(&what) else { return Ok(None) };
    Ok(Some((Key { scope: scope.into(), limit, subject: subject.into() }, row.get(3)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn full() -> NameState {
        NameState {
            issued_by: Some("default".into()),
            order: Some(OpenOrder {
                account: "second".into(),
                directory: "https://ca.example/dir".into(),
                url: "https://ca.example/order/1".into(),
                part: true,
                begun_ms: 11,
            }),
            issued_in: Some("https://ca.example/dir".into()),
            issued_ms: 12,
            unseen: true,
            failed_of: 13,
            failed_with: Some("dns 192.0.2.53:53".into()),
            proof: Some(Proof::TlsAlpn01),
            failures: 3,
            not_before_ms: 17,
            error: Some("the name leads elsewhere".into()),
            renewal: Some(Renewal { of: 5, offered: true, at_ms: 6, window: (4, 8), look_ms: 7 }),
            forced: true,
            asked: true,
        }
    }

    #[test]
    fn all_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let name = |text: &str| text.parse::<ServerName>().unwrap();
        let key = Key { scope: "https://ca.example/dir".into(), limit: Limit::Domain, subject: "shop.example".into() };
        let (mut file, kept) = StateFile::open(&path).unwrap();
        assert!(kept.names.is_empty() && kept.budgets.is_empty());
        let names = [
            (name("a.example"), Some(full())),
            (name("b.example"), Some(NameState::default())),
            (name("c.example"), None),
        ];
        file.save(&names, &[(key.clone(), Some(9))]).unwrap();
        file.save(&[(name("b.example"), None)], &[]).unwrap();
        drop(file);
        let (mut file, kept) = StateFile::open(&path).unwrap();
        assert_eq!(kept.names, [(name("a.example"), full())]);
        assert_eq!(kept.budgets, [(key.clone(), 9)]);
        file.save(&[], &[(key, None)]).unwrap();
        drop(file);
        assert!(StateFile::open(&path).unwrap().1.budgets.is_empty());
    }

    #[test]
    fn a_newer_format_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        drop(StateFile::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        assert!(matches!(StateFile::open(&path), Err(OpenError::Newer(_))));
    }

    #[test]
    fn damage_is_told_from_what_lies_outside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        std::fs::write(&path, "this was a database once, and is none any more; it is long enough to be one").unwrap();
        assert!(matches!(StateFile::open(&path), Err(OpenError::Damaged(_))));
        std::fs::remove_file(&path).unwrap();
        drop(StateFile::open(&path).unwrap());
        Connection::open(&path).unwrap().execute_batch("DROP TABLE budgets").unwrap();
        assert!(matches!(StateFile::open(&path), Err(OpenError::Damaged(_))));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(StateFile::open(&path), Err(OpenError::Unusable(_))));
        // Others that write or take locks at this moment.
        for code in [rusqlite::ffi::SQLITE_BUSY, rusqlite::ffi::SQLITE_PROTOCOL] {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert!(matches!(error.into(), OpenError::Unusable(_)));
        }
    }

    #[test]
    fn the_first_format_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(
            "CREATE TABLE names (name TEXT NOT NULL PRIMARY KEY, issued_by TEXT, order_account TEXT, order_url TEXT,
                failures INTEGER NOT NULL, not_before_ms INTEGER NOT NULL, error TEXT, renewal_of INTEGER,
                renewal_at_ms INTEGER NOT NULL, window_start INTEGER NOT NULL, window_end INTEGER NOT NULL,
                look_ms INTEGER NOT NULL, offered INTEGER NOT NULL, forced INTEGER NOT NULL, asked INTEGER NOT NULL
             ) WITHOUT ROWID;
             CREATE TABLE budgets (account TEXT NOT NULL, what TEXT NOT NULL, subject TEXT NOT NULL,
                paid_ms INTEGER NOT NULL, PRIMARY KEY (account, what, subject)) WITHOUT ROWID;
             INSERT INTO names VALUES ('a.example', 'default', 'default', 'https://ca.example/order/1', 2, 7, 'why',
                NULL, 0, 0, 0, 0, 0, 0, 1);
             INSERT INTO budgets VALUES ('default', 'new_orders', '', 9), ('default', 'duplicates', 'a.example', 9);
             PRAGMA user_version = 1;",
        )
        .unwrap();
        drop(old);
        let kept = StateFile::open(&path).unwrap().1;
        let state = &kept.names.first().unwrap().1;
        assert_eq!((state.issued_by.as_deref(), state.failures, state.asked), (Some("default"), 2, true));
        assert_eq!(state.order, None, "nobody knows at which CA it is");
        let scopes: Vec<_> = kept.budgets.iter().map(|(key, _)| (&*key.scope, key.limit)).collect();
        assert_eq!(scopes, [("default", Limit::NewOrders)]);
        assert_eq!(StateFile::open(&path).unwrap().1.names, kept.names);
    }
}
