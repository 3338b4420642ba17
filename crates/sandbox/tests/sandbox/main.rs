//! The sandbox, driven through the `bare` example with real programs.
//!
//! As root every test runs the sandbox as a user without privileges, some as root too. What a
//! test needs and does not find (a program, a kernel feature) fails it and is named.

mod attacks;
mod channels;
mod control;
mod doors;
mod files;
mod held;
mod hosts;
mod life;
mod support;
mod tap;
mod unix_sockets;
mod unix_sockets_inside;
