//! What is mounted where, and by which further paths one file can be reached.
//!
//! Answers *around the gateway* (docs/threats.md): a file that is read-only by one path and writable by
//! another, where its folder is mounted a second time, is not protected. Nor are the kernel's settings
//! where a folder prepared for `chroot` has a `/proc` of the host, or control groups are mounted
//! elsewhere than below `/sys`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The most that is read of the table, in bytes: the kernel allows 100,000 mounts.
const MAX_TABLE_BYTES: u64 = 64 * 1024 * 1024;

/// File systems through which settings of the host, or its processes, are changed.
const SETTINGS: [&[u8]; 13] = [
    b"sysfs",
    b"cgroup",
    b"cgroup2",
    b"cpuset",
    b"debugfs",
    b"tracefs",
    b"securityfs",
    b"selinuxfs",
    b"configfs",
    b"efivarfs",
    b"fusectl",
    b"binfmt_misc",
    b"bpf",
];
const PROC: &[u8] = b"proc";
/// Where the sandbox's own mounts hide what the host had there, or protect it already.
const OWN_PLACES: [&str; 3] = ["/proc", "/sys", "/run"];

/// The mounts that this process sees.
#[derive(Debug)]
pub struct MountTable(Vec<Mount>);

/// One line of the table (proc_pid_mountinfo(5)).
#[derive(Debug)]
struct Mount {
    id: u64,
    /// Major and minor number of the file system.
    device: Vec<u8>,
    /// Which folder or file of the file system is shown.
    root: PathBuf,
    /// Where.
    at: PathBuf,
    /// The file system's type.
    kind: Vec<u8>,
    /// The file system's own options.
    options: Vec<u8>,
}

impl MountTable {
    /// Reads this process's table.
    ///
    /// # Errors
    /// `/proc` cannot be read, or the table is too long.
    pub fn read() -> io::Result<Self> {
        let mut text = Vec::new();
        File::open("/proc/self/mountinfo")?
            .take(MAX_TABLE_BYTES)
            .read_to_end(&mut text)?;
        if text.len() as u64 == MAX_TABLE_BYTES {
            return Err(io::Error::other("the mount table is too long"));
        }
        Ok(Self::parse(&text))
    }

    pub(crate) fn parse(table: &[u8]) -> Self {
        let lines = table.split(|byte| *byte == b'\n');
        Self(lines.filter_map(Mount::parse).collect())
    }

    /// Where a whole `proc` is mounted besides `/proc`.
    pub(crate) fn other_procs(&self) -> impl Iterator<Item = &Path> {
        self.elsewhere()
            .filter(|mount| mount.is_whole_proc())
            .map(|mount| mount.at.as_path())
    }

    /// Where file systems with settings of the host, or parts of `proc`, are mounted besides `/proc` and
    /// `/sys`.
    pub(crate) fn other_settings(&self) -> impl Iterator<Item = &Path> {
        let settings = |mount: &&Mount| {
            let kind = mount.kind.as_slice();
            (kind == PROC && !mount.is_whole_proc()) || SETTINGS.contains(&kind)
        };
        self.elsewhere()
            .filter(settings)
            .map(|mount| mount.at.as_path())
    }

    fn elsewhere(&self) -> impl Iterator<Item = &Mount> {
        let own = |at: &Path| OWN_PLACES.iter().any(|own| at.starts_with(own));
        self.0.iter().filter(move |mount| !own(&mount.at))
    }

    /// Every other path by which the file or folder at `path` can be reached. `path` has no symbolic
    /// links in it.
    ///
    /// # Errors
    /// The path leads nowhere, or its mount is not in the table.
    pub(crate) fn other_paths(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let found = fs::symlink_metadata(path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let id = statx(CWD, path, flags, StatxFlags::MNT_ID)?.stx_mnt_id;
        let mount = self.mount(id)?;
        let place = mount.place_of(path).ok_or(io::ErrorKind::NotFound)?;
        let paths = self.0.iter().filter(|other| other.device == mount.device);
        let paths = paths.filter_map(|other| other.path_of(&place));
        let same = |other: &PathBuf| {
            // What another mount hides, or this user cannot see, is not to be reached by that path.
            fs::symlink_metadata(other)
                .is_ok_and(|it| (it.dev(), it.ino()) == (found.dev(), found.ino()))
        };
        Ok(paths.filter(|other| other != path).filter(same).collect())
    }

    /// Whether a file of an overlay can also be reached by a path of one of its layers.
    ///
    /// # Errors
    /// The file's mount is not in the table.
    pub fn shows_a_layer_of(&self, file: impl AsFd) -> io::Result<bool> {
        let file = file.as_fd();
        let id = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
        let mount = self.mount(id)?;
        let path = fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&file)
        ))?;
        let place = mount.place_of(&path).ok_or(io::ErrorKind::NotFound)?;
        let layers = mount
            .options
            .split(|byte| *byte == b',')
            .filter_map(|option| {
                let at = option.iter().position(|byte| *byte == b'=')?;
                let is_layer = [&b"lowerdir"[..], b"lowerdir+", b"datadir+", b"upperdir"]
                    .contains(&&option[..at]);
                is_layer.then(|| &option[at + 1..])
            });
        let mut folders = layers.flat_map(|layer| layer.split(|byte| *byte == b':'));
        // A relative one is meant from wherever its mounter stood: it may be anywhere.
        Ok(folders.any(|folder| {
            let folder = Path::new(OsStr::from_bytes(folder));
            let within = place.strip_prefix("/").unwrap_or(&place);
            folder.is_relative() || fs::symlink_metadata(folder.join(within)).is_ok()
        }))
    }

    fn mount(&self, id: u64) -> io::Result<&Mount> {
        let found = self.0.iter().find(|mount| mount.id == id);
        found.ok_or_else(|| io::Error::other("its mount is not in the mount table"))
    }
}

impl Mount {
    /// id, parent, device, root, place, options, optional fields, "-", kind, source, own options.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = fields.nth(1)?.to_vec();
        let root = path(fields.next()?);
        let at = path(fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-");
        let kind = fields.nth(1).unwrap_or_default().to_vec();
        let options = fields
            .nth(1)
            .map(|text| path(text).into_os_string().into_vec());
        Some(Self {
            id,
            device,
            root,
            at,
            kind,
            options: options.unwrap_or_default(),
        })
    }

    fn is_whole_proc(&self) -> bool {
        self.kind == PROC && self.root == Path::new("/")
    }

    /// What a path shows, as the file system itself calls it.
    fn place_of(&self, path: &Path) -> Option<PathBuf> {
        Some(joined(&self.root, path.strip_prefix(&self.at).ok()?))
    }

    /// The path by which this mount shows what the file system calls so.
    fn path_of(&self, place: &Path) -> Option<PathBuf> {
        Some(joined(&self.at, place.strip_prefix(&self.root).ok()?))
    }
}

/// `folder/rest`, and `folder` itself where there is no rest.
fn joined(folder: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() {
        folder.to_owned()
    } else {
        folder.join(rest)
    }
}

/// The table writes blanks, line ends and backslashes as `\` and three octal digits.
fn path(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, more)) = rest.split_first() {
        let escaped = (*byte == b'\\').then(|| more.get(..3)).flatten();
        let value = escaped
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(value.unwrap_or(*byte));
        rest = if value.is_some() { &more[3..] } else { more };
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(line: &str) -> Mount {
        Mount::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_file_has_a_path_in_each_mount_that_shows_it() {
        let home = mount(r"31 1 8:1 /home /a\040b rw,nosuid shared:1 master:2 - ext4 /dev/x rw,y");
        assert_eq!((home.id, home.options.as_slice()), (31, &b"rw,y"[..]));
        let place = home.place_of(Path::new("/a b/u/policy.toml")).unwrap();
        assert_eq!(place, Path::new("/home/u/policy.toml"));
        let paths = ["/", "/home/u", "/home/u/policy.toml", "/srv", "/home/u2"]
            .map(|root| mount(&format!("32 1 8:1 {root} /m rw - ext4 /dev/x rw")).path_of(&place));
        let expected = [
            Some("/m/home/u/policy.toml"),
            Some("/m/policy.toml"),
            Some("/m"),
            None,
            None,
        ];
        assert_eq!(paths, expected.map(|path| path.map(PathBuf::from)));
        assert!(Mount::parse(b"").is_none());
    }

    #[test]
    fn the_kernels_file_systems_are_found_in_unusual_places() {
        let lines = [
            "21 1 0:19 / /proc rw,relatime - proc proc rw",
            "22 1 0:20 / /sys rw,relatime shared:7 - sysfs sysfs rw",
            "23 22 0:21 / /sys/fs/cgroup rw shared:8 - cgroup2 cgroup2 rw",
            "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
            r"25 24 0:19 / /srv/a\040root/proc rw,relatime - proc proc rw",
            "26 24 0:19 /sys /srv/procsys rw master:3 propagate_from:2 - proc proc rw",
            "27 24 0:30 / /cgroup/freezer rw - cgroup cgroup rw,freezer",
            "28 24 0:30 / /sysroot rw - ext4 - rw",
        ];
        let table = MountTable(lines.iter().map(|line| mount(line)).collect());
        let procs: Vec<&Path> = table.other_procs().collect();
        assert_eq!(procs, [Path::new("/srv/a root/proc")]);
        let settings: Vec<&Path> = table.other_settings().collect();
        assert_eq!(settings, ["/srv/procsys", "/cgroup/freezer"].map(Path::new));
    }

    #[test]
    fn every_path_of_a_real_file_is_found() {
        let table = MountTable::read().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = fs::canonicalize(file.path()).unwrap();
        for other in table.other_paths(&path).unwrap() {
            assert_eq!(
                fs::metadata(other).unwrap().ino(),
                file.as_file().metadata().unwrap().ino()
            );
        }
        assert!(table.other_paths(Path::new("/no/such/file")).is_err());
    }
}
