//! Tools that are not installed but kept in `target/test-tools`: the npm package `ws`, schemathesis, a kernel
//! for the guest, and systemd's nss-resolve.

use crate::shell::{Result, output, run, succeeds, tools_folder};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The WebSocket client of tests/cases/case_4_direct.rs; one exact version, so that a run can be repeated.
const WS: &str = "ws@8.18.3";
/// What reads an OpenAPI document and asks everything that it allows; one exact version, likewise.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// systemd's module for libc's name service switch.
const NSS_RESOLVE: &str = "libnss-resolve";
/// Packages that depend on the newest kernel for virtual machines: Debian's, Ubuntu's.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// `target/test-tools/node_modules/ws`.
pub fn node_packages() -> Result<()> {
    let folder = tools_folder();
    if folder.join("node_modules/ws/package.json").is_file() {
        return Ok(());
    }
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("package.json"), "{\"private\": true}\n"))
        .map_err(|error| error.to_string())?;
    run(Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--ignore-scripts",
        ])
        .arg(WS)
        // npm takes the nearest folder with a manifest; `--prefix` would also move its global
        // configuration, and with it the machine's own certificates.
        .current_dir(&folder))
}

/// `target/test-tools/schemathesis`, which drives the daemon's API from its OpenAPI document.
pub fn schemathesis() -> Result<()> {
    let folder = tools_folder().join("schemathesis");
    if folder.join("bin/schemathesis").is_file() {
        return Ok(());
    }
    let mut pip = Command::new("/usr/bin/python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"]);
    run(pip.arg(folder).arg(SCHEMATHESIS))
}

/// Libraries of `tests/programs`, and agents, whose newest versions are what people have.
pub fn large() -> Result<()> {
    let python = tools_folder().join("python");
    if !python.join("openai").is_dir() {
        let mut pip = Command::new("/usr/bin/python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]);
        run(pip
            .arg(&python)
            .args(["openai", "anthropic", "huggingface_hub", "botocore"]))?;
    }
    let mut npm = Command::new("npm");
    // Agents fetch their programs by scripts.
    npm.args(["install", "--no-audit", "--no-fund", "--no-save"]);
    npm.args(["axios", "got", "undici", "opencode-ai", "@openai/codex"]);
    npm.args(["@anthropic-ai/claude-code", WS]);
    run(npm.current_dir(tools_folder()))
}

/// The guest's kernel, unpacked into `target/test-tools/linux` (nothing is installed): the tests
/// read `boot/vmlinuz-*` and `lib/modules` below it.
pub fn guest_kernel() -> Result<()> {
    let folder = tools_folder().join("linux");
    if has_kernel(&folder) {
        return Ok(());
    }
    let image = KERNELS
        .iter()
        .find_map(|name| newest_image(name))
        .ok_or("no kernel package for the guest: is `apt-get update` needed?")?;
    let mut names = vec![image.clone()];
    // Ubuntu keeps the modules in a package of their own.
    let modules = image.replace("linux-image-", "linux-modules-");
    if succeeds(Command::new("apt-cache").args(["show", "--no-all-versions", &modules])) {
        names.push(modules);
    }
    unpack(&names, &folder)?;
    if has_kernel(&folder) {
        Ok(())
    } else {
        Err("the kernel package has no kernel".to_owned())
    }
}

/// systemd's nss-resolve, unpacked into `target/test-tools/nss-resolve`. Never installed: its package
/// brings systemd-resolved, which takes the machine's own name resolution over.
pub fn nss_resolve() -> Result<()> {
    let folder = tools_folder().join("nss-resolve");
    let installed = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.path().join("libnss_resolve.so.2").is_file());
    if installed || folder.is_dir() {
        return Ok(());
    }
    unpack(&[NSS_RESOLVE.to_owned()], &folder)
}

/// Downloads Debian packages and unpacks them into a folder.
fn unpack(names: &[String], folder: &Path) -> Result<()> {
    let scratch = tools_folder().join("download");
    std::fs::create_dir_all(&scratch).map_err(|error| error.to_string())?;
    for name in names {
        run(Command::new("apt-get")
            .args(["download", name])
            .current_dir(&scratch))?;
    }
    for entry in std::fs::read_dir(&scratch)
        .map_err(|error| error.to_string())?
        .flatten()
    {
        if entry.path().extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg").arg("-x").arg(entry.path()).arg(folder))?;
        }
    }
    // Nothing is left that a later run could mistake for something else.
    let _ = std::fs::remove_dir_all(&scratch);
    Ok(())
}

fn has_kernel(folder: &Path) -> bool {
    let kernels = |path: PathBuf| {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))
    };
    kernels(folder.join("boot"))
        && (folder.join("lib/modules").is_dir() || folder.join("usr/lib/modules").is_dir())
}

fn newest_image(name: &str) -> Option<String> {
    let text = output(Command::new("apt-cache").args(["depends", name])).ok()?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
}
