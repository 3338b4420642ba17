//! A Kerberos realm with one user and one web service, in temporary folders: nothing of the
//! machine's own Kerberos or Apache is read, written or started.
//!
//! The web service is `backend-canonical-host.example.corp`; `internal-data.example.corp` is a CNAME
//! to it. Only the canonical name has a principal, so a client that builds the service's principal
//! from any other name gets no ticket.

use crate::support::{Ran, Sandbox, finish, portcullis, require, sandbox, world_from};
use portcullis_testkit::exec::Finished;
use portcullis_testkit::{World, WorldSpec, ip};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The one user.
pub const USER: &str = "alice";
/// The user's password.
pub const PASSWORD: &str = "correct horse";
/// Where programs look.
pub const ALIAS: &str = "internal-data.example.corp";
/// What they must ask a ticket for.
pub const SERVICE: &str = "HTTP/backend-canonical-host.example.corp@EXAMPLE.CORP";

const REALM: &str = "EXAMPLE.CORP";
const CANONICAL: &str = "backend-canonical-host.example.corp";
/// The address of the KDC.
pub const KDC: &str = "203.0.113.32";
const WEB: &str = "203.0.113.30";
/// What a page says that only an authenticated user gets.
pub const WELCOME: &str = "welcome to the data\n";

/// How long a tool of the realm may take.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// How long the servers may take until they answer.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the case's programs need besides their policy: the KDC, and how it is found.
pub const KDC_POLICY: &str = r#"version = 1
[network.domains]
"_kerberos._tcp.example.corp" = "allow"
"_kerberos._udp.example.corp" = "allow"
"kdc.example.corp:88" = "allow"
"#;

/// A Codex profile, as its own tool reads it.
pub const PROFILE: &str = r#"default_permissions = "workspace"

[permissions.workspace.filesystem]
":root" = "read"
":tmpdir" = "write"

[permissions.workspace.filesystem.":project_roots"]
"." = "write"

[permissions.workspace.network]
enabled = true
mode = "full"
allow_local_binding = true
allow_upstream_proxy = true

[permissions.workspace.network.domains]
"internal-symbols.example.corp" = "allow"
"internal-data.example.corp" = "allow"
"#;

/// The standard world, with the realm's addresses free for its servers and their records beside the
/// alias, its canonical name and the PTR that are there already.
fn spec() -> WorldSpec {
    let mut spec = WorldSpec::standard();
    spec.services.retain(|service| service.address != ip(WEB));
    for line in [
        "_kerberos._tcp.example.corp SRV 0 0 88 kdc.example.corp",
        "_kerberos._udp.example.corp SRV 0 0 88 kdc.example.corp",
        "_kerberos.example.corp TXT EXAMPLE.CORP",
        "kdc.example.corp A 203.0.113.32",
        "ws7.example.corp A 203.0.113.33",
        "32.113.0.203.in-addr.arpa PTR kdc.example.corp",
    ] {
        spec = spec.record(line);
    }
    spec.closed(WEB).closed(KDC)
}

/// A realm that serves as long as this value lives.
pub struct Realm {
    servers: Vec<Child>,
    folder: PathBuf,
    /// Where it serves; ended after the servers.
    pub world: World,
}

impl Realm {
    /// A realm in a world of its own, ready to be asked.
    pub fn start() -> Realm {
        for program in ["krb5kdc", "kdb5_util", "kadmin.local", "apache2"] {
            require(program);
        }
        for program in ["kinit", "kvno", "klist", "curl", "python3"] {
            require(program);
        }
        let world = world_from(spec());
        let folder = world.home().join("realm");
        let mut realm = Realm {
            servers: Vec::new(),
            folder,
            world,
        };
        realm.prepare();
        let kdc = realm.server("krb5kdc", &["-n", "-r", REALM]);
        let conf = realm.folder.join("apache.conf").display().to_string();
        let web = realm.server("apache2", &["-f", &conf, "-X"]);
        realm.servers.extend([kdc, web]);
        realm.wait_until_ready();
        realm
    }

    /// Where its servers keep their files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A key for one more service, in a file that its server can read; the file's path.
    pub fn keytab(&self, service: &str, file: &str) -> String {
        let path = self.folder.join(file).display().to_string();
        for order in [
            format!("addprinc -randkey {service}"),
            format!("ktadd -k {path} {service}"),
        ] {
            self.must("kadmin.local", &["-r", REALM, "-p", "tests", "-q", &order]);
        }
        self.must("chmod", &["0644", &path]);
        path
    }

    /// Gets the user's first ticket into the cache of a client that has begun.
    pub fn log_in(&self, name: &str) {
        let home = self.world.home();
        let cache = home.join(format!("{name}.ccache"));
        let mut command = self.world.command("sh");
        command
            .env("KRB5_CONFIG", home.join(format!("{name}.krb5.conf")))
            .env("KRB5CCNAME", format!("FILE:{}", cache.display()))
            .args(["-c", &kinit()]);
        let done = finish(&mut command, TOOL_LIMIT);
        assert!(done.ok(), "{done}\n{}", self.logs());
    }

    /// The command of one of the realm's own programs.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = self.world.internet_command(program);
        command
            .env("KRB5_CONFIG", self.folder.join("krb5.conf"))
            .env("KRB5_KDC_PROFILE", self.folder.join("kdc.conf"))
            .env("KRB5RCACHEDIR", &self.folder)
            .current_dir(&self.folder);
        command
    }

    fn server(&self, program: &str, args: &[&str]) -> Child {
        let log = std::fs::File::create(self.folder.join(format!("{program}.out")));
        let log = log.unwrap_or_else(|error| panic!("{error}"));
        let mut command = self.tool(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {program}: {error}"),
        }
    }

    /// Configuration, database, principals, keytabs, certificate, page.
    fn prepare(&self) {
        let done = finish(
            self.world.command("mkdir").args(["-p", "realm/www"]),
            TOOL_LIMIT,
        );
        assert!(done.ok(), "{done}");
        let folder = self.folder.display();
        let (certificate, key) = self.world.certificate(&[ALIAS, CANONICAL]);
        let modules = apache_modules();
        for (name, content) in [
            (
                "krb5.conf",
                format!("[libdefaults]\n\tdefault_realm = {REALM}\n"),
            ),
            (
                "kdc.conf",
                format!(
                    "[kdcdefaults]\n\tkdc_listen = {KDC}:88\n\tkdc_tcp_listen = {KDC}:88\n\
                     [realms]\n\t{REALM} = {{\n\t\tdatabase_name = {folder}/principal\n\
                     \t\tkey_stash_file = {folder}/stash\n\t\tacl_file = {folder}/acl\n\t}}\n\
                     [logging]\n\tkdc = FILE:{folder}/kdc.log\n"
                ),
            ),
            (
                "apache.conf",
                format!(
                    "ServerRoot {folder}\nDefaultRuntimeDir {folder}\nPidFile {folder}/apache.pid\n\
                     ServerName {CANONICAL}\nListen {WEB}:80\nListen {WEB}:443\n{modules}\
                     ErrorLog {folder}/apache.log\nLogLevel info auth_gssapi:debug\n\
                     DocumentRoot {folder}/www\n\
                     <VirtualHost *:443>\n SSLEngine on\n SSLCertificateFile {}\n\
                     SSLCertificateKeyFile {}\n</VirtualHost>\n\
                     <Location />\n AuthType GSSAPI\n AuthName realm\n GssapiAllowedMech krb5\n\
                     GssapiCredStore keytab:{folder}/http.keytab\n Require valid-user\n</Location>\n",
                    certificate.display(),
                    key.display()
                ),
            ),
            ("www/index.html", WELCOME.to_owned()),
        ] {
            self.world.file(&format!("realm/{name}"), content);
        }
        self.must("kdb5_util", &["create", "-s", "-r", REALM, "-P", "master"]);
        let folder = self.folder.display();
        for order in [
            format!("addprinc -pw \"{PASSWORD}\" {USER}"),
            format!("addprinc -randkey HTTP/{CANONICAL}"),
            format!("ktadd -k {folder}/http.keytab HTTP/{CANONICAL}"),
        ] {
            // By name: without one it looks for the user's, who may have none.
            self.must("kadmin.local", &["-r", REALM, "-p", "tests", "-q", &order]);
        }
    }

    fn must(&self, program: &str, args: &[&str]) {
        let done = finish(self.tool(program).args(args), TOOL_LIMIT);
        assert!(done.ok(), "{program} {args:?}: {done}\n{}", self.logs());
    }

    /// Waits until the KDC gives a ticket and the web server asks for one.
    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        let url = format!("http://{WEB}/");
        loop {
            let kinit = self.outside("kdc.example.corp", &kinit());
            let web = ["-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
            let web = finish(self.world.command("curl").args(web), TOOL_LIMIT);
            if kinit.ok() && web.out() == "401" {
                return;
            }
            let ended = self.servers.iter_mut().any(|server| {
                let status = server.try_wait();
                status.is_ok_and(|status| status.is_some())
            });
            assert!(
                !ended && Instant::now() < deadline,
                "the realm does not serve: {kinit}\n{web}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What its servers logged.
    pub fn logs(&self) -> String {
        let names = ["kdc.log", "apache.log", "krb5kdc.out", "apache2.out"];
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name));
        let all = names.iter().map(|name| {
            let text = read(name).unwrap_or_else(|error| error.to_string());
            format!("--- {name}\n{text}")
        });
        all.collect()
    }

    /// Writes a client's krb5.conf whose settings differ from the library's own by these lines of
    /// `[libdefaults]`; gives the variables of a client that uses it and has no ticket yet. `name`
    /// keeps clients apart.
    fn client(&self, name: &str, settings: &str) -> [(&'static str, String); 2] {
        let text = format!("[libdefaults]\n{settings}\n");
        let conf = self.world.file(&format!("{name}.krb5.conf"), text);
        let cache = self.world.home().join(format!("{name}.ccache"));
        // Usually there is none.
        let _ = std::fs::remove_file(&cache);
        [
            ("KRB5_CONFIG", conf.display().to_string()),
            ("KRB5CCNAME", format!("FILE:{}", cache.display())),
        ]
    }

    /// Runs a shell script of a client outside any sandbox.
    pub fn outside(&self, name: &str, script: &str) -> Finished {
        self.outside_with(name, DEFAULT_REALM, script)
    }

    /// The same with other settings.
    pub fn outside_with(&self, name: &str, settings: &str, script: &str) -> Finished {
        let mut command = self.world.command("sh");
        command
            .envs(self.client(name, settings))
            .args(["-c", script]);
        finish(&mut command, TOOL_LIMIT)
    }

    /// Runs a client's script under `learn`; gives how it went and the policy that was written.
    pub fn learn(&self, script: &str) -> (Finished, String) {
        let output = self.world.home().join("learned.toml");
        let mut command = self.world.command(portcullis());
        command
            .envs(self.client("learner", DEFAULT_REALM))
            .args(["learn", "-o"])
            .arg(&output)
            .args(["--", "sh", "-c", script]);
        let done = finish(&mut command, TOOL_LIMIT);
        let policy = std::fs::read_to_string(&output);
        (done, policy.unwrap_or_else(|error| error.to_string()))
    }

    /// The beginning of a client's run in the sandbox, without any policy yet.
    pub fn inside(&self, name: &str, settings: &str) -> Sandbox<'_> {
        let mut run = sandbox(&self.world).limit(TOOL_LIMIT);
        for (variable, value) in self.client(name, settings) {
            run = run.env(variable, &value);
        }
        run
    }

    /// The case's profile and the KDC's policy around a client with nothing but a default realm.
    pub fn profile(&self, script: &str) -> Ran {
        self.inside("inside", DEFAULT_REALM)
            .policy("toml", PROFILE)
            .policy("toml", KDC_POLICY)
            .sh(script)
    }
}

/// All that a client needs to be told where the realm is in DNS.
pub const DEFAULT_REALM: &str = "\tdefault_realm = EXAMPLE.CORP";

/// Gets the user's first ticket, as a person types it.
pub fn kinit() -> String {
    format!("printf '{PASSWORD}\\n' | kinit {USER} >/dev/null")
}

/// The modules of a small Apache, from wherever the distribution keeps them.
fn apache_modules() -> String {
    let folder = Path::new("/usr/lib/apache2/modules");
    let names = [
        "mpm_event",
        "authn_core",
        "authz_core",
        "authz_user",
        "dir",
        "ssl",
        "auth_gssapi",
    ];
    let lines = names.iter().map(|name| {
        let file = folder.join(format!("mod_{name}.so"));
        assert!(
            file.is_file(),
            "this test needs {}: install the Debian packages apache2-bin and \
             libapache2-mod-auth-gssapi (`cargo xtask test` installs all that the tests need)",
            file.display()
        );
        format!("LoadModule {name}_module {}\n", file.display())
    });
    lines.collect()
}

impl Drop for Realm {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
