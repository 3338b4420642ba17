//! Who may do what: the owner of a sandbox, and administrators.

/// The process at the other end of a connection, by the kernel's word (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// The process, as the daemon sees it.
    pub pid: u32,
}

impl Peer {
    fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

/// Who may do everything: root, the daemon's own user, and a group if the operator names one.
#[derive(Clone, Copy, Debug)]
pub struct Admins {
    /// The user that the daemon runs as.
    pub user: u32,
    /// The group of administrators.
    pub group: Option<u32>,
}

/// Who asks, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The process, as the daemon sees it.
    pub pid: u32,
    /// Whether it may do everything.
    pub is_admin: bool,
}

impl Admins {
    /// What a peer is here.
    pub fn caller(&self, peer: &Peer) -> Caller {
        let by_group = self.group.is_some_and(|group| peer.is_in(group));
        Caller {
            uid: peer.uid,
            pid: peer.pid,
            is_admin: peer.uid == 0 || peer.uid == self.user || by_group,
        }
    }
}

impl Caller {
    /// Whether it may see and change what this user owns.
    pub fn may_use(&self, owner: u32) -> bool {
        self.is_admin || self.uid == owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer {
            uid,
            gid: uid,
            groups: groups.to_vec(),
            pid: 1,
        }
    }

    #[test]
    fn root_the_daemons_user_and_the_group_are_administrators() {
        let admins = Admins {
            user: 500,
            group: Some(77),
        };
        for (peer, is_admin) in [
            (peer(0, &[]), true),
            (peer(500, &[]), true),
            (peer(1000, &[4, 77]), true),
            (peer(77, &[]), true),
            (peer(1000, &[4]), false),
        ] {
            assert_eq!(admins.caller(&peer).is_admin, is_admin, "{peer:?}");
        }
        let none = Admins {
            user: 500,
            group: None,
        };
        assert!(!none.caller(&peer(1000, &[77])).is_admin);
    }

    #[test]
    fn others_use_what_is_theirs() {
        let admins = Admins {
            user: 0,
            group: None,
        };
        let caller = admins.caller(&peer(1000, &[]));
        assert!(caller.may_use(1000));
        assert!(!caller.may_use(1001));
        assert!(!caller.may_use(0));
        assert!(admins.caller(&peer(0, &[])).may_use(1001));
    }
}
