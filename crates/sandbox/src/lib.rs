//! Linux sandbox: namespaces, sockets inside, mounts, seccomp.
