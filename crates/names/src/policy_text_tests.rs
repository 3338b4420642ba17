//! Tests of `policy_text`.
