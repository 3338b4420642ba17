//! The portcullis command line.
#![forbid(unsafe_code)]
