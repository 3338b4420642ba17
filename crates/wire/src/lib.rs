//! Wire formats: bytes in, typed values out.
#![forbid(unsafe_code)]
