//! A certificate more, another one, one less: told to each server in the way that its operators have.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{connector, is_refusal, shake};
use crate::names::{LATE, NEW, Names};
use crate::peers::{Kind, POLL, START_MAX, Server, nginx_block, seen_by_peers};

/// What happens to a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is one now.
    Added,
    /// There is another one now.
    Replaced,
    /// There is none any more.
    Removed,
    /// There is one, for a name that comes with an account of its own.
    Account,
}

impl Server {
    /// Changes the files, tells the server, and waits until clients notice.
    pub(crate) fn change(&self, change: Change, names: &Names) -> Result<Duration, String> {
        let name = if change == Change::Account { NEW } else { LATE };
        let leaf = match change {
            Change::Removed => {
                names.withdraw(name);
                None
            }
            _ => Some(names.issue(name)),
        };
        if change == Change::Account {
            names.add_account();
        }
        let begun = Instant::now();
        self.tell(change, names)?;
        let connector = connector();
        loop {
            let is_noticed = match (shake(&connector, self.address, name), &leaf) {
                (Ok(stream), Some(leaf)) => {
                    let served = stream.ssl().peer_certificate().and_then(|served| served.to_der().ok());
                    served.as_ref() == Some(leaf)
                }
                // A server that cannot be reached says nothing of the name.
                (Err(error), None) => is_refusal(&error),
                _ => false,
            };
            if is_noticed {
                return Ok(begun.elapsed());
            }
            if self.is_over() {
                return Err(format!("{change:?}: it ended"));
            }
            if begun.elapsed() > START_MAX {
                return Err(format!("{change:?}: clients did not notice"));
            }
            std::thread::sleep(POLL);
        }
    }

    fn tell(&self, change: Change, names: &Names) -> Result<(), String> {
        match self.kind {
            Kind::Pixelgate | Kind::FirstStart if change == Change::Account => pixelgate(names, &["reload"], &[0]),
            // 1 = the name is not served now.
            Kind::Pixelgate | Kind::FirstStart => pixelgate(names, &["cert", "reload", LATE], &[0, 1]),
            // It looks for files when a visitor comes, and for others only when its workers are new.
            Kind::NginxVariable if change == Change::Added => Ok(()),
            Kind::NginxVariable => self.hang_up(),
            Kind::NginxBlocks => {
                let blocks = self.dir.join("blocks.conf");
                let block = nginx_block(self.address, LATE, &seen_by_peers(&self.root, &names.folder));
                let without = read(&blocks)?.replace(&block, "");
                let text = if change == Change::Removed { without } else { without + &block };
                std::fs::write(blocks, text).map_err(told)?;
                self.hang_up()
            }
            Kind::Haproxy => self.tell_haproxy(change, names),
            Kind::Caddy => self.tell_caddy(),
        }
    }

    fn hang_up(&self) -> Result<(), String> {
        Command::new("kill").arg("-HUP").arg(self.child.id().to_string()).status().map(drop).map_err(told)
    }

    /// By its runtime API, which changes memory only; the files are its operator's to keep in step.
    fn tell_haproxy(&self, change: Change, names: &Names) -> Result<(), String> {
        let file = format!("{}/pem/{LATE}.pem", seen_by_peers(&self.root, &names.folder));
        let list = format!("{}/crt-list", seen_by_peers(&self.root, &self.dir));
        let order = |order: &str| -> Result<(), String> {
            let mut stream = UnixStream::connect(self.dir.join("socket")).map_err(told)?;
            stream.write_all(order.as_bytes()).map_err(told)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(told)?;
            if answer.contains("rror") || answer.contains("Can't") { Err(answer) } else { Ok(()) }
        };
        if change == Change::Removed {
            order(&format!("del ssl crt-list {list} {file}\n"))?;
            return order(&format!("del ssl cert {file}\n"));
        }
        if change == Change::Added {
            order(&format!("new ssl cert {file}\n"))?;
        }
        let pem = read(&names.folder.join(format!("pem/{LATE}.pem")))?;
        order(&format!("set ssl cert {file} <<\n{pem}\n\n"))?;
        order(&format!("commit ssl cert {file}\n"))?;
        if change == Change::Added { order(&format!("add ssl crt-list {list} {file}\n")) } else { Ok(()) }
    }

    /// By its admin API: the same configuration again, so that it reads the folder again.
    fn tell_caddy(&self) -> Result<(), String> {
        let config = read(&self.dir.join("caddy.json"))?;
        let admin = read(&self.dir.join("admin"))?;
        let mut stream = TcpStream::connect(&admin).map_err(told)?;
        write!(
            stream,
            "POST /load HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nCache-Control: must-revalidate\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{config}",
            config.len()
        )
        .map_err(told)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(told)?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    }
}

fn pixelgate(names: &Names, arguments: &[&str], good: &[i32]) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixelgate"));
    command.args(arguments).arg("--config").arg(names.folder.join("pixelgate"));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().map_err(told)?;
    if status.code().is_some_and(|code| good.contains(&code)) {
        Ok(())
    } else {
        Err(format!("pixelgate {arguments:?}: {status}"))
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn told(error: std::io::Error) -> String {
    error.to_string()
}
