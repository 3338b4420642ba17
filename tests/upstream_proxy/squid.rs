//! A real squid in the world's internet, at the upstream proxy's address.

use crate::processes::{Background, until};
use crate::support::{finish, require, world_from};
use portcullis_testkit::{World, WorldSpec};
use std::path::PathBuf;
use std::time::Duration;

/// Where squid is, by address and by name.
pub const ADDRESS: &str = "198.51.100.90";
pub const NAME: &str = "squid.example.corp";
/// Without credentials, with them, and the latter inside TLS.
pub const OPEN: u16 = 3128;
pub const BASIC: u16 = 3129;
pub const SECURE: u16 = 3130;
/// What the latter two want.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "wonder:land s3cret";
/// A name that squid alone knows; the world's resolvers say that it does not exist.
pub const ONLY_SQUID: &str = "only-squid.example.com";
/// A name to which squid refuses to go.
pub const FORBIDDEN: &str = "github.com";

/// A world with a squid.
pub struct Squid {
    pub world: World,
    process: Background,
    log: PathBuf,
}

impl Squid {
    /// Starts it and waits until it serves.
    pub fn start() -> Squid {
        Squid::start_in(WorldSpec::standard())
    }

    /// The same in another world.
    pub fn start_in(spec: WorldSpec) -> Squid {
        require("squid");
        require("htpasswd");
        let spec = spec.closed(ADDRESS).record(&format!("{NAME} A {ADDRESS}"));
        let world = world_from(spec);
        let helper = [
            "/usr/lib/squid/basic_ncsa_auth",
            "/usr/lib64/squid/basic_ncsa_auth",
        ]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("squid's basic_ncsa_auth is not installed");
        let users = world.home().join("squid-users");
        let mut htpasswd = world.command("htpasswd");
        htpasswd.args([
            "-bcm".as_ref(),
            users.as_os_str(),
            USER.as_ref(),
            PASSWORD.as_ref(),
        ]);
        let made = finish(&mut htpasswd, Duration::from_secs(60));
        assert!(made.ok(), "{made}");
        let (certificate, key) = world.certificate(&[NAME]);
        let log = world.home().join("squid-access.log");
        world.file("squid-hosts", format!("203.0.113.10 {ONLY_SQUID}\n"));
        let home = world.home();
        let home = home.display();
        let config = format!(
            "http_port {ADDRESS}:{OPEN} name=open\n\
             http_port {ADDRESS}:{BASIC} name=basic\n\
             https_port {ADDRESS}:{SECURE} name=secure tls-cert={} tls-key={}\n\
             auth_param basic program {helper} {home}/squid-users\n\
             auth_param basic realm company\n\
             acl open myportname open\n\
             acl known proxy_auth REQUIRED\n\
             acl forbidden dstdomain {FORBIDDEN}\n\
             http_access deny forbidden\n\
             http_access allow open\n\
             http_access allow known\n\
             http_access deny all\n\
             hosts_file {home}/squid-hosts\n\
             dns_nameservers {}\n\
             cache deny all\n\
             cache_mem 8 MB\n\
             pid_filename none\n\
             access_log stdio:{}\n\
             cache_log {home}/squid-cache.log\n\
             netdb_filename none\n\
             pinger_enable off\n\
             shutdown_lifetime 0 seconds\n\
             coredump_dir {home}\n\
             visible_hostname {NAME}\n\
             max_filedescriptors 1024\n",
            certificate.display(),
            key.display(),
            resolver(&world),
            log.display(),
        );
        let config = world.file("squid.conf", config);
        let mut command = world.internet_command("squid");
        // -N: no daemon, no workers of its own.
        command.arg("-N").arg("-f").arg(config);
        let process = Background::start(&mut command);
        let squid = Squid {
            world,
            process,
            log,
        };
        for port in [OPEN, BASIC, SECURE] {
            squid.until_open(port);
        }
        squid
    }

    fn until_open(&self, port: u16) {
        require("nc");
        until("squid serves", || {
            let mut nc = self.world.command("nc");
            nc.args(["-z", "-w", "5", ADDRESS, &port.to_string()]);
            finish(&mut nc, Duration::from_secs(30)).ok()
        });
    }

    /// The lines of its access log that contain this.
    pub fn logged(&self, part: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains(part));
        lines.map(str::to_owned).collect()
    }

    /// Waits until its access log has a line with this: it is written when a connection ends.
    pub fn until_logged(&self, part: &str) {
        until(part, || !self.logged(part).is_empty());
    }

    /// Its URL on this port, without credentials.
    pub fn url(&self, scheme: &str, port: u16) -> String {
        format!("{scheme}://{NAME}:{port}")
    }

    /// The policy with these lines in `[network.proxy]`.
    pub fn policy(&self, proxy: &str) -> String {
        format!(
            "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n\
             \"{FORBIDDEN}\" = \"allow\"\n\"{ONLY_SQUID}\" = \"allow\"\n\
             \"raw.example.com:*\" = \"allow\"\n\"ssh.example.com:22\" = \"allow\"\n\
             [network.proxy]\n{proxy}\n"
        )
    }

    /// The address of a server of the world was never visited by the gateway itself.
    #[track_caller]
    pub fn assert_never_direct(&self) {
        for event in self.world.server_log() {
            let of = |address: &str| address.parse::<std::net::SocketAddr>().map(|at| at.ip());
            let outside = of(&event.local).is_ok_and(|ip| ip.to_string().starts_with("203.0.113."));
            let gateway = of(&event.peer).is_ok_and(|ip| ip.to_string() == "192.0.2.2");
            assert!(!(outside && gateway), "not by the proxy: {event:?}");
        }
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        // It would outlive nothing: the world ends it. Its own end keeps the log whole.
        crate::processes::kill("TERM", self.process.pid());
    }
}

fn resolver(world: &World) -> String {
    world.spec().dns.servers[0].address.to_string()
}
