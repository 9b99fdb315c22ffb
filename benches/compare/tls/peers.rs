//! Each server with its configuration, started and looked into.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{connector, shake};
use crate::names::Names;

/// Longer than this is "did not start".
pub(crate) const START_MAX: Duration = Duration::from_secs(600);
pub(crate) const POLL: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pixelgate that never ran before.
    FirstStart,
    /// Pixelgate after that.
    Pixelgate,
    NginxBlocks,
    NginxVariable,
    Haproxy,
    Caddy,
}

/// In turn; each start that is not the first one follows one.
pub(crate) const KINDS: [Kind; 6] =
    [Kind::FirstStart, Kind::Pixelgate, Kind::NginxVariable, Kind::NginxBlocks, Kind::Haproxy, Kind::Caddy];

/// A server that runs.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) started_in: Duration,
    /// Its own folder, where its configuration and sockets are.
    pub(crate) dir: PathBuf,
    /// The folder of the peers, as which they see `/`.
    pub(crate) root: PathBuf,
    /// Where nothing is answered: what Pixelgate delivers waits there.
    _graph: TcpListener,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::FirstStart => "pixelgate, first start",
            Kind::Pixelgate => "pixelgate",
            Kind::NginxBlocks => "nginx, block a name",
            Kind::NginxVariable => "nginx, variable + cache",
            Kind::Haproxy => "haproxy, crt-list",
            Kind::Caddy => "caddy, load_folders",
        }
    }

    pub(crate) fn is_pixelgate(self) -> bool {
        matches!(self, Kind::FirstStart | Kind::Pixelgate)
    }

    /// Visits of each name after which nearly all are warm: of nginx's two workers each has a cache of its own, and three
    /// visits find both in three of four cases.
    pub(crate) fn visits(self) -> usize {
        if self == Kind::NginxVariable { 3 } else { 1 }
    }
}

// === impl Server ===

impl Server {
    pub(crate) fn start(kind: Kind, root: &Path, names: &Names) -> Result<Self, String> {
        names.reset();
        let dir = names.folder.join(if kind.is_pixelgate() { "own".to_owned() } else { format!("{kind:?}") });
        if kind != Kind::Pixelgate {
            let _ = std::fs::remove_dir_all(&dir);
        }
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let graph = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let address = free_address();
        let mut server = Starting { kind, root, names, dir: &dir, address, graph: graph.local_addr().unwrap() };
        let mut command = server.command();
        let log = std::fs::File::create(dir.join("log")).map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let begun = Instant::now();
        let child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
        let mut server = Self {
            kind,
            child,
            address,
            started_in: Duration::ZERO,
            dir: dir.clone(),
            root: root.to_owned(),
            _graph: graph,
        };
        let connector = connector();
        let first = names.name(names.count / 2);
        while shake(&connector, address, &first).is_err() {
            if let Ok(Some(status)) = server.child.try_wait() {
                let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
                return Err(format!("ended with {status}: {}", log.chars().take(2_000).collect::<String>()));
            }
            if begun.elapsed() > START_MAX {
                return Err("did not start in 10 min".to_owned());
            }
            std::thread::sleep(POLL);
        }
        server.started_in = begun.elapsed();
        Ok(server)
    }

    /// Resident and proportional memory of all its processes.
    pub(crate) fn memory_mib(&self) -> (f64, f64) {
        let of = |key: &str| -> f64 {
            let kib = |pid: &u32| -> f64 {
                let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
                let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
                line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_default()
            };
            self.pids().iter().map(kib).sum::<f64>() / 1024.0
        };
        (of("Rss:"), of("Pss:"))
    }

    /// Whether its first process has ended.
    pub(crate) fn is_over(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|fields| fields.trim_start().starts_with('Z'))
    }

    /// CPU seconds that all its processes spend meanwhile.
    pub(crate) fn cpu_s_of(&self, load: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
        let before = self.cpu_s();
        load()?;
        Ok(self.cpu_s() - before)
    }

    /// CPU seconds of all its processes so far (proc(5): ticks of 10 ms).
    fn cpu_s(&self) -> f64 {
        let ticks = |pid: &u32| -> f64 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            [11, 12].into_iter().filter_map(|at: usize| fields.get(at)?.parse::<f64>().ok()).sum()
        };
        self.pids().iter().map(ticks).sum::<f64>() / 100.0
    }

    /// The process and those it started.
    fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = pids.get(at).copied() {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        pids
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked first: nginx and haproxy end their workers then.
        let _ = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        let begun = Instant::now();
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if begun.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
            }
            std::thread::sleep(POLL);
        }
        // Workers outlive a first process that was killed.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    }
}

/// What is needed to write a configuration and start.
struct Starting<'a> {
    kind: Kind,
    root: &'a Path,
    names: &'a Names,
    dir: &'a Path,
    address: SocketAddr,
    graph: SocketAddr,
}

// === impl Starting ===

impl Starting<'_> {
    fn command(&mut self) -> Command {
        match self.kind {
            Kind::FirstStart | Kind::Pixelgate => self.pixelgate(),
            Kind::NginxBlocks => self.nginx(true),
            Kind::NginxVariable => self.nginx(false),
            Kind::Haproxy => self.haproxy(),
            Kind::Caddy => self.caddy(),
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.dir.join(name), text).expect("a configuration file");
        format!("{}/{name}", seen_by_peers(self.root, self.dir))
    }

    fn in_peers(&self, program: &str) -> Command {
        let mut command = on_two_cores("chroot");
        command.arg(self.root).arg(program);
        command
    }

    fn pixelgate(&self) -> Command {
        let config = self.names.folder.join("pixelgate");
        let toml = format!(
            "[host]\nname = \"Comparison\"\ndomain = \"gw.agency.example\"\ndata_dir = {:?}\n\n\
             [listen]\nhttps = [\"{}\"]\nhttp = []\nops = \"127.0.0.1:0\"\n\n[tls]\ncerts_dir = {:?}\n\n\
             [delivery]\ngraph_url = \"http://{}\"\n\n\
             [limits]\nhandshakes_per_second = 1_000_000\nhandshakes_per_second_per_ip = 1_000_000\naccount_events_per_second = 10_000_000\n",
            self.dir.join("data"),
            self.address,
            self.names.folder.join("certs"),
            self.graph
        );
        std::fs::write(config.join("pixelgate.toml"), toml).expect("a configuration file");
        let mut command = on_two_cores(env!("CARGO_BIN_EXE_pixelgate"));
        command.arg("run").arg("--config").arg(config);
        command
    }

    fn nginx(&self, blocks: bool) -> Command {
        let folder = seen_by_peers(self.root, &self.names.folder);
        let dir = seen_by_peers(self.root, self.dir);
        let servers = if blocks {
            let mut text = String::new();
            (0..self.names.count).for_each(|at| text += &nginx_block(self.address, &self.names.name(at), &folder));
            let blocks = self.write("blocks.conf", &text);
            format!(
                "server {{ listen {} ssl default_server backlog=4096; ssl_reject_handshake on; }}\ninclude {blocks};",
                self.address
            )
        } else {
            format!(
                "ssl_certificate_cache max=200000 inactive=1h valid=1h;\n\
                 server {{ listen {} ssl backlog=4096; ssl_certificate {folder}/certs/$ssl_server_name/chain.pem;\n\
                 ssl_certificate_key {folder}/certs/$ssl_server_name/key.pem; location / {{ return 204; }} }}",
                self.address
            )
        };
        let conf = format!(
            "user root; daemon off; worker_processes 2; pid {dir}/pid; error_log {dir}/errors crit;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; server_names_hash_max_size 1048576; server_names_hash_bucket_size 128;\n\
             ssl_protocols TLSv1.3; ssl_ecdh_curve X25519;\n\
             keepalive_requests 1000000;\n{servers} }}\n"
        );
        let conf = self.write("nginx.conf", &conf);
        let mut command = self.in_peers("nginx");
        command.args(["-c", &conf]);
        command
    }

    fn haproxy(&self) -> Command {
        let folder = seen_by_peers(self.root, &self.names.folder);
        let dir = seen_by_peers(self.root, self.dir);
        let mut list = String::new();
        for at in 0..self.names.count {
            let _ = writeln!(list, "{folder}/pem/{}.pem", self.names.name(at));
        }
        let list = self.write("crt-list", &list);
        let conf = format!(
            "global\n nbthread 2\n maxconn 8192\n stats socket {dir}/socket mode 600 level admin\n\
             \x20ssl-default-bind-options ssl-min-ver TLSv1.3\n ssl-default-bind-curves X25519\n\
             defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend names\n bind {} ssl crt-list {list} strict-sni\n http-request return status 204\n",
            self.address
        );
        let conf = self.write("haproxy.cfg", &conf);
        let mut command = self.in_peers("haproxy");
        command.args(["-q", "-db", "-f", &conf]);
        command
    }

    fn caddy(&self) -> Command {
        let folder = seen_by_peers(self.root, &self.names.folder);
        let admin = free_address();
        self.write("admin", &admin.to_string());
        let config = serde_json::json!({
            "admin": { "listen": admin.to_string() },
            "logging": { "logs": { "default": { "level": "ERROR" } } },
            "apps": {
                "http": { "servers": { "names": {
                    "listen": [self.address.to_string()],
                    "protocols": ["h1"],
                    "automatic_https": { "disable": true },
                    "tls_connection_policies": [{ "protocol_min": "tls1.3", "curves": ["x25519"] }],
                    "routes": [{ "handle": [{ "handler": "static_response", "status_code": 204 }] }],
                } } },
                "tls": {
                    "certificates": { "load_folders": [format!("{folder}/pem")] },
                },
            },
        });
        let config = self.write("caddy.json", &config.to_string());
        let mut command = self.in_peers("caddy");
        command.args(["run", "--config", &config]).env("GOMAXPROCS", "2").env("HOME", "/root");
        command
    }
}

/// A program on as many cores as the servers have threads or workers: Pixelgate makes one for each core that it has.
fn on_two_cores(program: &str) -> Command {
    if std::thread::available_parallelism().map_or(1, usize::from) <= 2 {
        return Command::new(program);
    }
    // It becomes the program, under the same process id.
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0,1", program]);
    command
}

pub(crate) fn nginx_block(address: SocketAddr, name: &str, folder: &str) -> String {
    format!(
        "server {{ listen {address} ssl; server_name {name}; ssl_certificate {folder}/certs/{name}/chain.pem; \
         ssl_certificate_key {folder}/certs/{name}/key.pem; location / {{ return 204; }} }}\n"
    )
}

/// A path as the peers see it.
pub(crate) fn seen_by_peers(root: &Path, path: &Path) -> String {
    format!("/{}", path.strip_prefix(root).expect("a path below the peers' root").display())
}

/// An address that was free a moment ago: these servers take no port 0.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
