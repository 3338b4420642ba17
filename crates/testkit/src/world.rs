//! The handle a test holds: starts the world, runs programs in it, reads its logs, ends it.

use crate::exec;
use crate::inside::{self, HELPER_WORD, namespaces};
use crate::log::{self, DnsQuery, ServerEvent};
use crate::servers;
use crate::spec::{DnsSpec, WorldSpec};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a world may take to stand, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a world may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A world that lives as long as this value, at most as long as this process.
pub struct World {
    folder: tempfile::TempDir,
    helper: Vec<PathBuf>,
    process: Child,
    control: Mutex<Option<(ChildStdin, Receiver<String>)>>,
    host_pid: u32,
    spec: WorldSpec,
    as_nobody: bool,
}

impl World {
    /// Starts the standard world.
    ///
    /// # Errors
    /// See [`World::start`].
    pub fn standard() -> Result<World> {
        World::start(WorldSpec::standard())
    }

    /// Starts a world.
    ///
    /// # Errors
    /// When the kernel gives no user namespace, `ip` is missing, the helper program cannot be
    /// found, or the spec is wrong; the text says which, and what to do.
    pub fn start(spec: WorldSpec) -> Result<World> {
        let helper = match &spec.helper {
            Some(helper) => helper.clone(),
            None => find_helper()?,
        };
        let as_nobody = nix::unistd::geteuid().is_root();
        let folder = tempfile::Builder::new()
            .prefix("portcullis-world-")
            .tempdir()
            .context("cannot make the world's folder")?;
        let path = folder.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        servers::create_authority(path)?;
        std::fs::write(path.join("spec.json"), serde_json::to_vec(&spec)?)?;
        for name in ["home", "bin", "git"] {
            std::fs::create_dir(path.join(name))?;
        }
        for name in ["dns.jsonl", "server.jsonl"] {
            std::fs::write(path.join(name), "")?;
        }
        if as_nobody {
            let nobody = Some(namespaces::NOBODY);
            for name in [
                "",
                "home",
                "git",
                "bin",
                "dns.jsonl",
                "server.jsonl",
                "ca.key",
            ] {
                std::os::unix::fs::chown(path.join(name), nobody, nobody)
                    .context("cannot give the world's folder to user 65534")?;
            }
        }
        let errors = std::fs::File::create(path.join("world.stderr"))?;
        let mut process = Command::new(&helper[0])
            .args(&helper[1..])
            .args([HELPER_WORD, "serve"])
            .arg(path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", helper[0].display()))?;
        let control = process.stdin.take().context("no pipe")?;
        let said = process.stdout.take().context("no pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut world = World {
            folder,
            helper,
            process,
            control: Mutex::new(None),
            host_pid: 0,
            spec,
            as_nobody,
        };
        let first = lines.recv_timeout(START_TIMEOUT).ok();
        let first = first.and_then(|l| serde_json::from_str::<serde_json::Value>(&l).ok());
        let pid = first.and_then(|v| u32::try_from(v["host_pid"].as_u64()?).ok());
        let Some(pid) = pid else {
            bail!(
                "the test world did not start: {}",
                world.complaints().trim()
            );
        };
        world.host_pid = pid;
        world.control = Mutex::new(Some((control, lines)));
        Ok(world)
    }

    /// What the world's own processes wrote to standard error; empty when all is well.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("world.stderr")).unwrap_or_default()
    }

    /// A program in the host's namespaces, as an ordinary user: the runner's own, or 65534 when
    /// the runner is root. The environment is clean (`PATH`, `HOME`, `LANG` and the variables by
    /// which the usual tools find the world's CA); the current folder is [`World::home`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(self.host_pid, "user", program.as_ref())
    }

    /// The same as uid 0 of the world's user namespace, with every capability there.
    pub fn command_as_root(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(self.host_pid, "root", program.as_ref())
    }

    /// A program in the internet's namespace, as the same ordinary user: a real server beside the
    /// world's own. It may listen on every port there, at the world's addresses
    /// ([`WorldSpec::closed`] gives it one of its own), and ends with the world at the latest.
    pub fn internet_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(self.process.id(), "user", program.as_ref())
    }

    /// Writes a certificate of the world's authority for these names into [`World::home`]; gives
    /// the file of the certificate and that of its key, both PEM, for a real server.
    ///
    /// # Panics
    /// When it cannot be made or written.
    pub fn certificate(&self, names: &[&str]) -> (PathBuf, PathBuf) {
        match servers::issue(self.folder.path(), names) {
            Ok((certificate, key)) => (
                self.file("server.pem", certificate),
                self.file("server.key", key),
            ),
            Err(error) => panic!("no certificate for {names:?}: {error:#}"),
        }
    }

    /// Runs a program as [`World::command`] does, with a time limit.
    ///
    /// # Panics
    /// When it cannot be started: a test has nothing to go on with then.
    pub fn run(&self, program: &str, args: &[&str], limit: Duration) -> exec::Finished {
        match exec::run(self.command(program).args(args), limit) {
            Ok(finished) => finished,
            Err(error) => panic!("cannot run {program}: {error}"),
        }
    }

    fn enter(&self, whose: u32, who: &str, program: &OsStr) -> Command {
        let program = Path::new(program);
        let program = if program.is_absolute() {
            self.reachable(program)
        } else {
            program.into()
        };
        let mut command = Command::new(&self.helper[0]);
        command.args(&self.helper[1..]);
        command
            .args([HELPER_WORD, "enter", &whose.to_string(), who])
            .arg(program);
        command.env_clear().current_dir(self.home());
        for (name, value) in self.environment() {
            command.env(name, value);
        }
        command
    }

    /// The environment that programs in the world get.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let ca = self.ca_pem().display().to_string();
        let mut all = vec![
            ("PATH", namespaces::PATH.to_owned()),
            ("HOME", self.home().display().to_string()),
            ("LANG", "C.UTF-8".to_owned()),
        ];
        let names = [
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "GIT_SSL_CAINFO",
        ];
        all.extend(names.map(|name| (name, ca.clone())));
        all.push(("NODE_EXTRA_CA_CERTS", ca));
        all
    }

    /// A program's path as the ordinary user can execute it: the path itself, or a copy in the
    /// world's folder where the path leads through somebody's private folder.
    fn reachable(&self, program: &Path) -> PathBuf {
        let open = |path: &Path, bits: u32| {
            path.metadata()
                .is_ok_and(|m| m.permissions().mode() & bits == bits)
        };
        let walkable = program
            .ancestors()
            .skip(1)
            .all(|folder| open(folder, 0o001));
        if !self.as_nobody || (walkable && open(program, 0o005)) {
            return program.to_owned();
        }
        let Some(name) = program.file_name() else {
            return program.to_owned();
        };
        let copy = self.folder.path().join("bin").join(name);
        if !copy.exists() {
            // Under another name first: two threads may be here at once.
            let unique = format!("{}.{:?}", name.display(), std::thread::current().id());
            let draft = copy.with_file_name(unique.replace(['(', ')'], ""));
            let done = std::fs::copy(program, &draft)
                .and_then(|_| {
                    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755))
                })
                .and_then(|()| std::fs::rename(&draft, &copy));
            if done.is_err() {
                return program.to_owned();
            }
        }
        copy
    }

    /// The world's certificate authority, PEM.
    pub fn ca_pem(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A folder the ordinary user may write to.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Writes a file into [`World::home`], readable for the ordinary user.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home().join(name);
        if let Err(error) = std::fs::write(&path, content) {
            panic!("cannot write {}: {error}", path.display());
        }
        path
    }

    /// A process in the host's namespaces (`/proc/PID/ns/net` is the host's network namespace).
    pub fn host_pid(&self) -> u32 {
        self.host_pid
    }

    /// What the world was made from.
    pub fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    /// Every query that any DNS server of the world got, in order.
    ///
    /// # Panics
    /// When the log cannot be read: a test that goes on would prove nothing.
    pub fn dns_log(&self) -> Vec<DnsQuery> {
        log::read(&self.folder.path().join("dns.jsonl")).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Everything that the servers met, in order.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn server_log(&self) -> Vec<ServerEvent> {
        log::read(&self.folder.path().join("server.jsonl")).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// How often a name was asked for, whatever the case, type, server and transport.
    pub fn times_asked(&self, name: &str) -> usize {
        self.dns_log()
            .iter()
            .filter(|q| q.name.eq_ignore_ascii_case(name))
            .count()
    }

    /// Fails the test if a query ever contained this text, anywhere in its name or its bytes.
    ///
    /// # Panics
    /// When it did.
    pub fn assert_never_asked(&self, part: &str) {
        let part = part.to_ascii_lowercase();
        for query in self.dns_log() {
            let bytes = String::from_utf8_lossy(&log::unhex(&query.raw)).to_ascii_lowercase();
            assert!(
                !query.name.to_ascii_lowercase().contains(&part) && !bytes.contains(&part),
                "a name that must not leave the host reached {}: {query:?}",
                query.server
            );
        }
    }

    /// Fails the test if anything ever connected, or sent a datagram, to this address.
    ///
    /// # Panics
    /// When it did.
    pub fn assert_never_reached(&self, address: &str) {
        let address = crate::spec::ip(address);
        for event in self.server_log() {
            let local: Option<std::net::SocketAddr> = event.local.parse().ok();
            assert!(
                local.is_none_or(|l| l.ip() != address),
                "an address that must not be reached was: {event:?}"
            );
        }
    }

    /// Waits until an event satisfies the condition (the log of a close follows the close).
    ///
    /// # Panics
    /// When none has within the time.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&ServerEvent) -> bool,
    ) -> ServerEvent {
        let deadline = Instant::now() + limit;
        loop {
            let log = self.server_log();
            if let Some(found) = log.iter().find(|event| is(event)) {
                return found.clone();
            }
            if Instant::now() >= deadline {
                panic!("no {what} within {limit:?}; the log has {log:#?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Replaces zone and name faults while the world lives. Servers stay as they were.
    ///
    /// # Panics
    /// When the world does not take it.
    pub fn set_dns(&self, dns: &DnsSpec) {
        let mut control = self.control.lock().unwrap_or_else(|e| e.into_inner());
        let answer = control.as_mut().and_then(|(pipe, lines)| {
            let mut line = serde_json::to_vec(dns).ok()?;
            line.push(b'\n');
            pipe.write_all(&line).ok()?;
            lines.recv_timeout(START_TIMEOUT).ok()
        });
        assert_eq!(
            answer.as_deref(),
            Some("ok"),
            "the world refused the new zone"
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The end of its standard input ends the world.
        *self.control.lock().unwrap_or_else(|e| e.into_inner()) = None;
        let _ = exec::wait(&mut self.process, Instant::now() + STOP_TIMEOUT);
    }
}

/// Finds the helper next to the running program: a test's is one folder up.
fn find_helper() -> Result<Vec<PathBuf>> {
    if let Some(given) = std::env::var_os("PORTCULLIS_WORLD_BIN") {
        return Ok(vec![given.into()]);
    }
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let folders = me.ancestors().skip(1).take(2);
    for folder in folders {
        let candidate = folder.join("portcullis-world");
        if candidate.is_file() {
            return Ok(vec![candidate]);
        }
    }
    bail!(
        "the program portcullis-world is not there: `cargo build -p portcullis-testkit --bins` \
         builds it (or name it in PORTCULLIS_WORLD_BIN)"
    )
}

/// Plays a helper process of a world where the command line asks for it; `None` otherwise. A
/// program that hosts worlds calls this first thing in `main`, before it starts any thread
/// ([`crate::demo::run`] does it by itself, as `PROGRAM demo __world …`).
pub fn dispatch() -> Option<std::process::ExitCode> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let rest = match args.as_slice() {
        [word, rest @ ..] if word == HELPER_WORD => rest,
        [demo, word, rest @ ..] if demo == "demo" && word == HELPER_WORD => rest,
        _ => return None,
    };
    Some(inside::main(rest))
}
