//! What the tests need from the machine. What is missing fails the test, by name; nothing is
//! skipped.

use portcullis_testkit::World;
use std::path::{Path, PathBuf};

/// Where programs are looked for: the `PATH` of the world's programs.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Programs whose Debian package has another name.
const PACKAGES: &[(&str, &str)] = &[
    ("dig", "bind9-dnsutils"),
    ("nslookup", "bind9-dnsutils"),
    ("nc", "netcat-openbsd"),
    ("bwrap", "bubblewrap"),
    ("nft", "nftables"),
    ("node", "nodejs"),
    ("java", "default-jdk-headless"),
    ("javac", "default-jdk-headless"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ping", "iputils-ping"),
    ("sshd", "openssh-server"),
    ("tracepath", "iputils-tracepath"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("ldd", "libc-bin"),
    ("nsenter", "util-linux"),
    ("ssh", "openssh-client"),
    ("getent", "libc-bin"),
    ("ps", "procps"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("script", "bsdutils"),
    ("krb5kdc", "krb5-kdc"),
    ("kdb5_util", "krb5-kdc"),
    ("kadmin.local", "krb5-admin-server"),
    ("kinit", "krb5-user"),
    ("kvno", "krb5-user"),
    ("klist", "krb5-user"),
    ("apache2", "apache2-bin"),
    ("musl-gcc", "musl-tools"),
    ("nginx", "nginx-light"),
    ("nghttp", "nghttp2-client"),
    ("h2load", "nghttp2-client"),
    ("keytool", "default-jdk-headless"),
    ("go", "golang-go"),
    ("aria2c", "aria2"),
    ("redis-cli", "redis-tools"),
    ("chromium", "chromium"),
    ("ffmpeg", "ffmpeg"),
    ("php", "php-cli"),
    ("redis-server", "redis-server"),
    ("psql", "postgresql"),
    ("mariadb", "mariadb-server"),
    ("swaks", "swaks"),
    ("kubectl", "kubernetes-client"),
    ("firefox-esr", "firefox-esr"),
];

/// Fails the test if a program is missing, and says which Debian package has it.
#[track_caller]
pub fn require(program: &str) {
    if FOLDERS
        .iter()
        .any(|folder| Path::new(folder).join(program).is_file())
    {
        return;
    }
    let package = PACKAGES
        .iter()
        .find(|(name, _)| *name == program)
        .map_or(program, |(_, p)| p);
    panic!(
        "this test needs `{program}`: install the Debian package {package} (`cargo xtask test` \
         installs all that the tests need)"
    );
}

/// Fails the test if a file of the kernel is missing or not for this user, and says what it is.
#[track_caller]
pub fn require_kernel(path: &str, what: &str) {
    use std::os::unix::fs::PermissionsExt;
    let usable = Path::new(path)
        .metadata()
        .is_ok_and(|data| data.permissions().mode() & 0o006 == 0o006);
    assert!(
        usable,
        "this test needs {what}: `sudo chmod 666 {path}`, or `cargo xtask test`"
    );
}

/// Puts the npm package `ws` into the world's home, where `require('ws')` finds it.
#[track_caller]
pub fn node_modules(world: &World) {
    require("node");
    let from = folder_of_tools().join("node_modules");
    assert!(
        from.join("ws/package.json").is_file(),
        "this test needs the npm package ws in {}: `cargo xtask test` puts it there",
        from.display()
    );
    if let Err(error) = copy(&from, &world.home().join("node_modules")) {
        panic!("cannot copy {}: {error}", from.display());
    }
}

/// The guest's kernel and the folder of its modules, unpacked by `cargo xtask test`.
#[track_caller]
pub fn guest_kernel() -> (PathBuf, PathBuf) {
    let linux = folder_of_tools().join("linux");
    let kernel = std::fs::read_dir(linux.join("boot"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))
        });
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|folder| std::fs::read_dir(linux.join(folder)).ok()?.next()?.ok())
        .map(|entry| entry.path())
        .next();
    match (kernel, modules) {
        (Some(kernel), Some(modules)) => (kernel, modules),
        _ => panic!(
            "this test needs a guest kernel in {}: `cargo xtask test` unpacks the Debian package \
             linux-image-cloud-amd64 there",
            linux.display()
        ),
    }
}

/// The folder of `libnss_resolve.so.2`: the system's where systemd's package is installed, or the
/// one that `cargo xtask test` unpacked.
#[track_caller]
pub fn nss_resolve() -> PathBuf {
    let library = "libnss_resolve.so.2";
    let mut folders = Vec::new();
    for top in [PathBuf::from("/"), folder_of_tools().join("nss-resolve")] {
        for lib in ["lib", "usr/lib", "usr/lib64"] {
            let below = std::fs::read_dir(top.join(lib)).into_iter().flatten();
            folders.push(top.join(lib));
            folders.extend(below.flatten().map(|entry| entry.path()));
        }
    }
    folders
        .into_iter()
        .find(|folder| folder.join(library).is_file())
        .unwrap_or_else(|| {
            panic!("this test needs {library}, unpacked by `cargo xtask test` (without --fast)")
        })
}

pub fn folder_of_tools() -> PathBuf {
    match std::env::var_os("PORTCULLIS_TEST_TOOLS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools"),
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
