//! Policy files compiled to verdicts.
#![forbid(unsafe_code)]
