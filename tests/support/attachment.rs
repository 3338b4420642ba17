//! Where the sandboxes of a test are: made by `run`, or by somebody else and attached, each in its way. A test that is
//! written once runs for all of them: `attacks! { its_name }`.

use std::cell::Cell;

/// What puts a program behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// `portcullis run` starts it.
    Run,
    /// `portcullis attach --pid`.
    Process,
    /// `portcullis attach --netns`.
    Namespace,
    /// A daemon, asked by its API.
    Daemon,
    /// It is a guest, whose frames go to `portcullis vm-socket`.
    Guest,
}

impl Attachment {
    /// What `elsewhere.py` calls it.
    pub fn kind(self) -> &'static str {
        match self {
            Attachment::Run => "run",
            Attachment::Process => "process",
            Attachment::Namespace => "namespace",
            Attachment::Daemon => "daemon",
            Attachment::Guest => "guest",
        }
    }

    /// The one that this test's sandboxes are in.
    pub fn current() -> Attachment {
        CURRENT.get()
    }

    /// Runs a test with its sandboxes there.
    pub fn run(self, test: fn()) {
        CURRENT.set(self);
        test();
    }
}

thread_local! {
    static CURRENT: Cell<Attachment> = const { Cell::new(Attachment::Run) };
}

/// Makes a test of each function for each attachment: attacks that make sense in any sandbox. `docs/attacks.md` lists
/// them. One that is about what `run` alone does is a plain `#[test]`.
#[macro_export]
macro_rules! attacks {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use $crate::support::Attachment;

            #[test]
            fn run() {
                Attachment::Run.run(super::$name);
            }

            #[test]
            fn process() {
                Attachment::Process.run(super::$name);
            }

            #[test]
            fn namespace() {
                Attachment::Namespace.run(super::$name);
            }

            #[test]
            fn daemon() {
                Attachment::Daemon.run(super::$name);
            }

            #[test]
            fn guest() {
                Attachment::Guest.run(super::$name);
            }
        }
    )+};
}
