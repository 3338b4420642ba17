//! The rules of the house that no compiler checks. A rule that is broken says where, and why it
//! is there. Exceptions are listed here with their reason, nowhere else.
#![forbid(unsafe_code)]

#[path = "house/source.rs"]
mod source;

#[path = "house/arrows.rs"]
mod arrows;
#[path = "house/attacks.rs"]
mod attacks;
#[path = "house/calls.rs"]
mod calls;
#[path = "house/cycles.rs"]
mod cycles;
#[path = "house/late.rs"]
mod late;
#[path = "house/texts.rs"]
mod texts;
