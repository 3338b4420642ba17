//! Which build this is (see `build.rs`).

/// The release, and the build as version control knows it.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PORTCULLIS_BUILD_ID"),
    ")"
);
/// The same as records say it.
pub const BUILD: &str = concat!(
    "portcullis ",
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PORTCULLIS_BUILD_ID"),
    ")"
);
