//! What is kept of names over a restart, beside their certificates: one small SQLite file, and the same in memory.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use crate::account::ServerName;
use crate::issuance::budget::{Key, Limit};

/// What is known of a name. One of which nothing is known is as the default says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameState {
    /// The CA account that issued its certificate last.
    pub(super) issued_by: Option<Box<str>>,
    /// An order that was begun and has not ended.
    pub(super) order: Option<OpenOrder>,
    /// Failed orders since the last certificate.
    pub(super) failures: u32,
    /// No order before this time. Unix milliseconds.
    pub(super) not_before_ms: i64,
    /// Why the last order failed.
    pub(super) error: Option<Box<str>>,
    /// What the CA said of the renewal of the certificate.
    pub(super) renewal: Option<Renewal>,
    /// A person asked for a new certificate.
    pub(super) forced: bool,
    /// A visitor asked for the name.
    pub(super) asked: bool,
}

/// An order at a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenOrder {
    /// The CA account, by its name.
    pub(super) account: Box<str>,
    /// The order (RFC 8555, 7.1.3); empty between the two orders of a name that gets two keys.
    pub(super) url: Box<str>,
}

/// What a CA said of the renewal of a certificate (RFC 9773).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renewal {
    /// Of which certificate: its last second of validity, Unix seconds.
    pub(super) of: i64,
    /// Whether it said anything; a CA may not offer it.
    pub(super) offered: bool,
    /// The moment in the CA's window that was drawn. Unix milliseconds.
    pub(super) at_ms: i64,
    /// The CA's window. Unix milliseconds.
    pub(super) window: (i64, i64),
    /// When to ask again. Unix milliseconds.
    pub(super) look_ms: i64,
}

/// The open file.
pub(super) struct StateFile {
    connection: Connection,
}

/// All that a file holds.
pub(super) struct Kept {
    pub(super) names: Vec<(ServerName, NameState)>,
    pub(super) budgets: Vec<(Key, i64)>,
}

/// The format that this code writes, kept as SQLite's `user_version`.
const VERSION: i64 = 1;

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
        asked         INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE budgets (
        account TEXT    NOT NULL,
        what    TEXT    NOT NULL,
        subject TEXT    NOT NULL,
        paid_ms INTEGER NOT NULL,        -- Unix milliseconds
        PRIMARY KEY (account, what, subject)
    ) WITHOUT ROWID;
    PRAGMA user_version = 1;
";

// === impl NameState ===

impl NameState {
    /// A certificate was issued by this account.
    pub(super) fn issued(&mut self, account: &str) {
        *self = Self { issued_by: Some(account.into()), ..Self::default() };
    }

    /// An order failed; the next one waits, longer each time. `share`, from 0 to 1, spreads those that failed together.
    pub(super) fn failed(&mut self, error: &str, (min, max): (Duration, Duration), share: f64, now_ms: i64) {
        let wait = min.saturating_mul(2u32.saturating_pow(self.failures)).min(max);
        // Between four fifths and the whole of it.
        let wait = wait.mul_f64(1.0 - 0.2 * share.clamp(0.0, 1.0));
        self.failures = self.failures.saturating_add(1);
        self.not_before_ms = now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        self.error = Some(error.into());
        self.order = None;
    }
}

// === impl StateFile ===

impl StateFile {
    /// Opens or makes the file and reads all of it.
    pub(super) fn open(path: &Path) -> rusqlite::Result<(Self, Kept)> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        match connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?,
            VERSION => {}
            newer => return Err(rusqlite::Error::IntegralValueOutOfRange(0, newer)),
        }
        let names = connection.prepare("SELECT * FROM names")?.query_map([], read_name)?.collect::<Result<_, _>>()?;
        let mut select = connection.prepare("SELECT account, what, subject, paid_ms FROM budgets")?;
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
            let (account, what, subject) = (&*key.account, key.limit.as_str(), &*key.subject);
            match paid {
                Some(paid) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO budgets VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![account, what, subject, paid])?,
                None => transaction
                    .prepare_cached("DELETE FROM budgets WHERE account = ?1 AND what = ?2 AND subject = ?3")?
                    .execute(params![account, what, subject])?,
            };
        }
        transaction.commit()
    }
}

fn write_name(connection: &Connection, name: &ServerName, state: &NameState) -> rusqlite::Result<()> {
    let none = Renewal { of: 0, offered: false, at_ms: 0, window: (0, 0), look_ms: 0 };
    let renewal = state.renewal.as_ref();
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO names VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
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
    ])?;
    Ok(())
}

fn read_name(row: &Row<'_>) -> rusqlite::Result<(ServerName, NameState)> {
    let malformed = |_| rusqlite::Error::InvalidColumnType(0, "name".into(), rusqlite::types::Type::Text);
    let text =
        |column: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<String>>(column)?.map(String::into_boxed_str));
    let order = match (text("order_account")?, text("order_url")?) {
        (Some(account), Some(url)) => Some(OpenOrder { account, url }),
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
    };
    Ok((row.get::<_, String>("name")?.parse().map_err(malformed)?, state))
}

/// A cell; `None` is one of a limit that this version does not know.
fn read_cell(row: &Row<'_>) -> rusqlite::Result<Option<(Key, i64)>> {
    let (account, what, subject): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let Some(limit) = Limit::parse(&what) else { return Ok(None) };
    Ok(Some((Key { account: account.into(), limit, subject: subject.into() }, row.get(3)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn full() -> NameState {
        NameState {
            issued_by: Some("default".into()),
            order: Some(OpenOrder { account: "second".into(), url: "https://ca.example/order/1".into() }),
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
        let key = Key { account: "default".into(), limit: Limit::Domain, subject: "shop.example".into() };
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
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(StateFile::open(&path).is_err());
    }

    #[test]
    fn each_failure_waits_longer_up_to_the_longest_wait() {
        let waits = (Duration::from_secs(60), Duration::from_secs(600));
        let mut state = NameState { order: full().order, ..NameState::default() };
        let mut seen = Vec::new();
        for _ in 0..5 {
            state.failed("x", waits, 0.0, 0);
            seen.push(state.not_before_ms / 1_000);
        }
        assert_eq!(seen, [60, 120, 240, 480, 600]);
        assert_eq!(state.order, None);
        state.failed("x", waits, 1.0, 0);
        assert_eq!(state.not_before_ms, 480_000);
    }
}
