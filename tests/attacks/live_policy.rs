//! The program keeps its operator's next policy from taking effect, or makes its own take effect.
//!
//! The program's user owns the policy here, and may write it outside: that is how most people run it.

use crate::inside::Inside;
use crate::policies::{allowing, changes, counts};
use crate::processes::{family, limit, until};
use crate::support::{Sandbox, finish, portcullis, sandbox, world};
use portcullis_testkit::World;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const API: &str = "api.example.com:9000";
const SSH: &str = "ssh.example.com:22";
const EVIL: &str = "evil.example.net";
/// How long an operator's own save, and its effect, may take.
const PROMPT: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(60);

/// Whose sandbox it is.
#[derive(Clone, Copy, Debug)]
enum User {
    Ordinary,
    Root,
}

impl User {
    fn command(self, world: &World, program: &str) -> Command {
        match self {
            User::Ordinary => world.command(program),
            User::Root => world.command_as_root(program),
        }
    }

    #[track_caller]
    fn shell(self, world: &World, script: &str) {
        let done = finish(self.command(world, "sh").args(["-c", script]), LIMIT);
        assert!(done.ok(), "{self:?}: {script}: {done}");
    }
}

/// A run by a policy in a folder of its own, which belong to its user.
struct Case<'w> {
    world: &'w World,
    user: User,
    folder: PathBuf,
    policy: PathBuf,
}

impl<'w> Case<'w> {
    fn new(world: &'w World, user: User) -> Case<'w> {
        Case::in_folder(world, user, "policies")
    }

    fn in_folder(world: &'w World, user: User, name: &str) -> Case<'w> {
        let folder = world.home().join(format!("{user:?}/{name}"));
        let policy = folder.join("policy.toml");
        let case = Case {
            world,
            user,
            folder,
            policy,
        };
        let (folder, file) = (case.folder.display(), case.policy.display());
        let text = allowing(&[API]);
        user.shell(
            world,
            &format!("mkdir -p {folder}; printf '%s' '{text}' > {file}"),
        );
        case
    }

    fn sandbox(&self) -> Sandbox<'w> {
        let sandbox = sandbox(self.world).args(&["--policy", &self.policy.display().to_string()]);
        match self.user {
            User::Ordinary => sandbox,
            User::Root => sandbox.as_root(),
        }
    }

    /// The operator saves in place, and in good time.
    #[track_caller]
    fn save(&self, names: &[&str]) {
        save(&self.policy, names);
    }
}

#[track_caller]
fn save(path: &Path, names: &[&str]) {
    let start = Instant::now();
    std::fs::write(path, allowing(names)).unwrap();
    assert!(start.elapsed() < PROMPT, "the operator's save was held up");
}

/// Lets the program end: nothing on its standard error, and its name was never asked for.
#[track_caller]
fn end(world: &World, inside: Inside) {
    let (status, said) = inside.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    world.assert_never_asked("evil");
}

fn as_both(test: impl Fn(&World, User)) {
    for user in [User::Ordinary, User::Root] {
        test(&world(), user);
    }
}

/// A lease on the policy makes its next reader wait, or fail. One on another policy would stop a
/// second run.
#[test]
fn a_lease_on_a_policy_holds_up_nobody() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let other = case.folder.join("other.toml");
        user.shell(
            world,
            &format!("cp {} {}", case.policy.display(), other.display()),
        );
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        let said = inside.python(&format!(
            "import fcntl, os, signal\n\
             signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
             said, kept = '', []\n\
             for path in ['{}', '{}']:\n\
             \x20 for lease in [fcntl.F_WRLCK, fcntl.F_RDLCK]:\n\
             \x20   try:\n\
             \x20     kept.append(os.open(path, os.O_RDONLY))\n\
             \x20     fcntl.fcntl(kept[-1], fcntl.F_SETLEASE, lease)\n\
             \x20     said += 'leased '\n\
             \x20   except OSError: said += 'refused '\n",
            case.policy.display(),
            other.display()
        ));
        assert_eq!(said, "refused refused refused refused ", "{user:?}");
        case.save(&[API, SSH]);
        until("the change counts", || counts(sandbox.log()).0 == 1);
        inside.expect("name ssh.example.com", "203.0.113.22");
        let start = Instant::now();
        let mut second = user.command(world, portcullis().to_str().unwrap());
        second.args(["run", "--policy", other.to_str().unwrap(), "--", "true"]);
        let done = finish(&mut second, LIMIT);
        assert!(done.ok() && start.elapsed() < PROMPT, "{user:?}: {done}");
        save(&other, &[SSH]);
        end(world, inside);
    });
}

/// A lease from outside the sandbox, which nobody refuses: the next reader of a policy waits for it,
/// and starts.
#[test]
fn a_lease_from_outside_delays_a_start_and_no_more() {
    let world = world();
    let case = Case::new(&world, User::Ordinary);
    let other = case.folder.join("other.toml");
    let copy = format!("cp {} {}", case.policy.display(), other.display());
    case.user.shell(&world, &copy);
    let holder = format!(
        "import fcntl, os, signal, time\n\
         files = [os.open(path, os.O_RDONLY) for path in ['{}', '{}']]\n\
         def give_back(*_):\n\
         \x20 time.sleep(1)\n\
         \x20 for file in files: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n\
         signal.signal(signal.SIGIO, give_back)\n\
         for file in files: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
         print('leased', flush=True)\n\
         time.sleep(60)",
        other.display(),
        case.policy.display()
    );
    let mut command = world.command("python3");
    let holder = crate::processes::Background::start(command.args(["-c", &holder]));
    holder.wait_line("leased");
    // The lease that is met first is on the second file.
    std::fs::rename(&case.policy, case.folder.join("leased.toml")).unwrap();
    std::fs::write(&case.policy, allowing(&[API])).unwrap();
    let second = case
        .sandbox()
        .args(&["--policy", &other.display().to_string()]);
    second.run(&["true"]).assert_ok();
}

/// Without process ids there are no further threads; the one that follows was there before.
#[test]
fn without_process_ids_the_policy_is_followed() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        let all = family(inside.pid());
        limit(world, all.gateway, "--nproc=1:1");
        limit(world, all.init, "--nproc=1:1");
        for (round, name) in ["ssh.example.com:22", "big.example.com"]
            .into_iter()
            .enumerate()
        {
            case.save(&[API, name]);
            until("the change counts", || counts(sandbox.log()).0 == round + 1);
            inside.expect("connect api.example.com 9000", "ok");
        }
        inside.expect("name big.example.com", "203.0.113.81");
        end(world, inside);
    });
}

/// Connections use up the gateway's descriptors: what is followed is open already.
#[test]
fn without_descriptors_the_policy_is_followed() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        inside.expect("open api api.example.com 9000", "ok");
        let gateway = family(inside.pid()).gateway;
        // None left at all: the limit is below what is open.
        limit(world, gateway, "--nofile=3:4096");
        case.save(&[API, SSH]);
        until("a change in place counts", || counts(sandbox.log()).0 == 1);
        inside.expect("ping api", "ok");
        // Another file in its place has to be opened. It is the operator's, who is another user.
        let new = case.folder.join("new");
        std::fs::write(&new, allowing(&[API, "big.example.com"])).unwrap();
        std::fs::rename(&new, &case.policy).unwrap();
        until("what cannot be read is recorded", || {
            counts(sandbox.log()).1 >= 1
        });
        let (_, why) = changes(sandbox.log()).pop().unwrap();
        assert!(why.contains("Too many open files"), "{user:?}: {why}");
        limit(world, gateway, "--nofile=4096:4096");
        until("it is read again", || counts(sandbox.log()).0 == 2);
        inside.expect("name big.example.com", "203.0.113.81");
        inside.expect("ping api", "ok");
        end(world, inside);
    });
}

/// One descriptor is kept back for a file that has to be opened.
#[test]
fn a_descriptor_is_kept_back_for_a_replaced_policy() {
    let world = world();
    let case = Case::new(&world, User::Ordinary);
    let sandbox = case.sandbox();
    let mut inside = Inside::start(&sandbox);
    inside.expect("open api api.example.com 9000", "ok");
    let gateway = family(inside.pid()).gateway;
    // Exactly as many as are open: the next one would be refused.
    let open = std::fs::read_dir(format!("/proc/{gateway}/fd")).unwrap();
    let highest = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let highest = highest.max().unwrap();
    limit(&world, gateway, &format!("--nofile={}:4096", highest + 1));
    let new = case.folder.join("new");
    std::fs::write(&new, allowing(&[API, SSH])).unwrap();
    std::fs::rename(&new, &case.policy).unwrap();
    until("it is read all the same", || counts(sandbox.log()).0 == 1);
    inside.expect("ping api", "ok");
    end(&world, inside);
}

/// The folder is renamed away and another made in its place: what is saved there reaches nobody, and
/// somebody has to say so.
#[test]
fn a_folder_in_the_place_of_the_policy_s_is_told() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        let (folder, evil) = (
            case.folder.display(),
            allowing(&[EVIL]).replace('\n', "\\n"),
        );
        inside.expect(
            &format!("sh mv {folder} {folder}.away && mkdir {folder} && printf '{evil}' > {folder}/policy.toml && echo moved"),
            "moved|",
        );
        until("it is told", || counts(sandbox.log()).1 == 1);
        let (_, why) = changes(sandbox.log()).pop().unwrap();
        assert!(
            why.contains("policies on the way was moved or replaced"),
            "{user:?}: {why}"
        );
        inside.expect(&format!("name {EVIL}"), "none");
        // The operator's next save there is told as well, and does nothing.
        save(&case.policy, &[API, SSH]);
        until("the save is told", || counts(sandbox.log()).1 == 2);
        inside.expect("name ssh.example.com", "none");
        // What is followed is where it was moved to.
        let moved = case.folder.with_extension("away").join("policy.toml");
        save(&moved, &[API, SSH]);
        until("the followed file counts", || counts(sandbox.log()).0 == 1);
        inside.expect("name ssh.example.com", "203.0.113.22");
        end(world, inside);
    });
}

/// An older policy of the operator's, which allows more, lies beside the one in force. The program
/// cannot write it, but move it.
#[test]
fn an_older_file_of_the_operator_s_is_not_taken_for_a_change() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let wide = case.folder.join("wide.toml");
        std::fs::write(&wide, allowing(&[API, EVIL])).unwrap();
        // The operator saved by a rename once, so that the file inside is no mount any more.
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        std::fs::write(case.folder.join("new"), allowing(&[API, SSH])).unwrap();
        std::fs::rename(case.folder.join("new"), &case.policy).unwrap();
        until("the operator's rename counts", || {
            counts(sandbox.log()).0 == 1
        });
        let (wide, policy) = (wide.display(), case.policy.display());
        inside.expect(&format!("sh mv -f {wide} {policy} && echo moved"), "moved|");
        until("it is refused", || counts(sandbox.log()).1 == 1);
        let (_, why) = changes(sandbox.log()).pop().unwrap();
        assert!(why.contains("older file"), "{user:?}: {why}");
        inside.expect(&format!("name {EVIL}"), "none");
        inside.expect("name ssh.example.com", "203.0.113.22");
        end(world, inside);
    });
}

/// A folder that holds nothing but policies is read-only inside, so that editors may save there as they
/// like: by a rename, or by another file in the place of the old one. What the program made elsewhere is
/// not taken for the operator's, although the operator moved it there.
#[test]
fn in_a_folder_of_policies_every_way_of_saving_is_followed_and_none_of_the_program_s() {
    as_both(|world, user| {
        let case = Case::in_folder(world, user, ".portcullis");
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        let (folder, policy) = (case.folder.display(), case.policy.display());
        let evil = allowing(&[API, EVIL]).replace('\n', "\\n");
        let made = world.home().join("made.toml");
        let made = made.display();
        let attempts = format!(
            "sh exec 2>/dev/null; printf '{evil}' > {made}; printf '{evil}' > {folder}/new && echo WROTE; \
             mv {made} {policy} && echo MOVED; ln {made} {folder}/second && echo LINKED; rm -f {policy} && echo REMOVED; \
             mv {folder} {folder}.away && echo RENAMED; unshare -Urm sh -c \"umount {folder}; \
             mount -o remount,rw,bind {folder}; printf '{evil}' > {folder}/new\" && echo WROTE; \
             exec 9< {made}; echo tried"
        );
        inside.expect(&attempts, "tried|");
        // As `sed -i` does it, and again.
        let by_rename = |names: &[&str]| {
            let text = allowing(names);
            user.shell(
                world,
                &format!("printf '%s' '{text}' > {folder}/sedX && mv {folder}/sedX {policy}"),
            );
        };
        by_rename(&[API, SSH]);
        until("a rename counts", || counts(sandbox.log()).0 == 1);
        inside.expect("name ssh.example.com", "203.0.113.22");
        inside.expect(&attempts, "tried|");
        by_rename(&[API]);
        until("the next rename counts", || counts(sandbox.log()).0 == 2);
        // As git does it.
        let text = allowing(&[API, "big.example.com"]);
        user.shell(
            world,
            &format!("rm {policy}; printf '%s' '{text}' > {policy}"),
        );
        until("a new file counts", || counts(sandbox.log()).0 == 3);
        inside.expect("name big.example.com", "203.0.113.81");
        inside.expect(&attempts, "tried|");
        // And in place, on the new file.
        case.save(&[API, SSH]);
        until("a change in place counts", || counts(sandbox.log()).0 == 4);
        // The program's own file, of which it has a descriptor.
        user.shell(world, &format!("mv {made} {policy}"));
        until("what came from elsewhere is refused", || {
            changes(sandbox.log())
                .last()
                .is_some_and(|(_, why)| why.contains("moved there from another folder"))
        });
        inside.expect(&format!("name {EVIL}"), "none");
        inside.expect("name ssh.example.com", "203.0.113.22");
        by_rename(&[API, "big.example.com"]);
        until("the operator's next file counts", || {
            counts(sandbox.log()).0 == 5
        });
        end(world, inside);
    });
}

/// Anywhere else the program could have made the new file: that is told, with what to do.
#[test]
fn a_policy_that_is_replaced_where_the_program_may_write_is_told_with_what_to_do() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        let text = allowing(&[API, SSH]);
        let (folder, policy) = (case.folder.display(), case.policy.display());
        let replace = format!("printf '%s' '{text}' > {folder}/x && mv {folder}/x {policy}");
        user.shell(world, &replace);
        until("it is told", || counts(sandbox.log()).1 == 1);
        let (_, why) = changes(sandbox.log()).pop().unwrap();
        for part in [
            "start it again",
            "save it in place",
            "backupcopy=yes",
            ".portcullis",
        ] {
            assert!(why.contains(part), "{user:?}: {part}: {why}");
        }
        inside.expect("name ssh.example.com", "none");
        end(world, inside);
    });
}

/// The folder is mounted a second time, and a third time as a part of another, and the file alone.
#[test]
fn a_second_mount_of_the_policy_is_covered_too() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let (home, folder) = (world.home(), case.folder.clone());
        let mounts = [
            (folder.clone(), home.join("second"), "second/policy.toml"),
            (
                folder.parent().unwrap().to_owned(),
                home.join("third"),
                "third/policies/policy.toml",
            ),
            (case.policy.clone(), home.join("fourth"), "fourth"),
        ];
        for (from, to, _) in &mounts {
            let (from, to) = (from.display(), to.display());
            let make =
                format!("[ -d {from} ] && mkdir -p {to} || touch {to}; mount --bind {from} {to}");
            User::Root.shell(world, &make);
        }
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        let evil = allowing(&[EVIL]).replace('\n', "\\n");
        for (.., path) in &mounts {
            let path = home.join(path);
            let path = path.display();
            let said = inside.ask(&format!(
                "sh exec 2>/dev/null; printf '{evil}' > {path} && echo WROTE; chmod 600 {path} && echo CHANGED; \
                 umount {path} && echo UMOUNTED; rm -f {path} && echo REMOVED; echo done"
            ));
            assert_eq!(said, "done|", "{user:?}: {path}");
        }
        // Nor by a file system of the program's own on top of the folder.
        let over = format!(
            "sh mkdir -p /tmp/o$$/l /tmp/o$$/w {folder}/.w; unshare -Urm sh -c \"mount -t overlay o -o \
             lowerdir=/tmp/o$$/l,upperdir={folder},workdir={folder}/.w /tmp/o$$/l && printf '{evil}' > \
             /tmp/o$$/l/policy.toml && echo WROTE; mkdir /tmp/o$$/b; mount --bind {folder} /tmp/o$$/b && printf \
             '{evil}' > /tmp/o$$/b/policy.toml && echo WROTE\" 2>/dev/null; echo done",
            folder = folder.display()
        );
        inside.expect(&over, "done|");
        inside.expect(&format!("name {EVIL}"), "none");
        case.save(&[API, SSH]);
        until("the operator's change counts", || {
            counts(sandbox.log()).0 == 1
        });
        inside.expect(&format!("name {EVIL}"), "none");
        end(world, inside);
    });
}

/// A second name of the file is one that nothing covers.
#[test]
fn a_policy_with_a_second_name_is_not_followed() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let second = world.home().join("second-name");
        std::fs::hard_link(&case.policy, &second).unwrap();
        let sandbox = case.sandbox();
        let mut inside = Inside::start(&sandbox);
        until("it is told at the start", || counts(sandbox.log()).1 == 1);
        let (_, why) = changes(sandbox.log()).pop().unwrap();
        assert!(
            why.contains("is not followed: it has another name"),
            "{user:?}: {why}"
        );
        let evil = allowing(&[API, EVIL]).replace('\n', "\\n");
        let write = format!("sh printf '{evil}' > {} && echo written", second.display());
        inside.expect(&write, "written|");
        std::thread::sleep(Duration::from_secs(3));
        inside.expect(&format!("name {EVIL}"), "none");
        inside.expect("connect api.example.com 9000", "ok");
        assert_eq!(counts(sandbox.log()).0, 0, "{user:?}");
        end(world, inside);
    });
}

/// Any descriptor of the file leads to it past its cover: one that may write, and one that may read,
/// by its link in `/proc`.
#[test]
fn a_policy_that_is_an_inherited_descriptor_is_not_the_program_s_to_write() {
    as_both(|world, user| {
        let case = Case::new(world, user);
        let opened = |write: bool| -> File {
            let mut options = OpenOptions::new();
            options.read(true).write(write).open(&case.policy).unwrap()
        };
        let evil = allowing(&[API, EVIL]);
        let program = format!(
            "import os, socket, time\n\
             def said(*what): os.write(1, (' '.join(map(str, what)) + '\\n').encode())\n\
             text = '''{evil}'''.encode()\n\
             for fd in os.listdir('/proc/self/fd'):\n\
             \x20 for way in [lambda: os.pwrite(int(fd), text, 0),\n\
             \x20             lambda: os.pwrite(os.open('/proc/self/fd/' + fd, os.O_WRONLY), text, 0)]:\n\
             \x20   try:\n\
             \x20     if os.fstat(int(fd)).st_ino == os.stat('{}').st_ino: way(); said('wrote')\n\
             \x20   except OSError: pass\n\
             time.sleep(2)\n\
             try: said(socket.getaddrinfo('{EVIL}', 80)[0][4][0])\n\
             except OSError: said('none')\n",
            case.policy.display()
        );
        for (write, policy_is_stdin) in [(true, false), (false, false), (true, true)] {
            case.save(&[API]);
            let mut sandbox = case.sandbox();
            if policy_is_stdin {
                sandbox = sandbox.args(&["--policy", "/dev/stdin"]);
            }
            let mut command = sandbox.command(&["python3", "-c", &program]);
            command.stdin(Stdio::from(opened(write)));
            let done = finish_with(&mut command);
            let log = std::fs::read_to_string(sandbox.log()).unwrap_or_default();
            // It may be refused before the start, or the file is not followed.
            let told = done.1.contains("policy.toml")
                || log.contains("is not followed: the command inherits");
            assert!(told, "{user:?} {write}: {done:?}\n{log}");
            assert!(!done.0.contains("203.0.113"), "{user:?} {write}: {done:?}");
            assert!(!log.contains("policy-reloaded"), "{user:?} {write}: {log}");
        }
        world.assert_never_asked("evil");
    });
}

/// Output and errors of a command whose standard input is set already.
#[track_caller]
fn finish_with(command: &mut Command) -> (String, String) {
    let done = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&done.stdout), text(&done.stderr))
}
