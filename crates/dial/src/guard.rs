//! The last check, on the very address that is about to be dialled.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dns::{Leases, PolicyHandle};
use portcullis_names::Transport;
use portcullis_policy::{Policy, Reason};

use crate::error::exhausted;
use crate::host::{Host, HostAddresses, reaches};

/// Who chose an address: how far it is trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChosenBy {
    /// The sandbox, or a name server on the internet.
    Sandbox,
    /// The rule for the host's own name: loopback is what it is for, so that the guard does not
    /// apply. A rule that denies the address does.
    HostName,
    /// The rule that sends a name there (`to`): it lifts the guard for this one address and port. A
    /// rule that denies the address stands.
    Rule,
    /// The operator, in the settings: neither guard nor rules apply, they are about the sandbox's
    /// destinations.
    Operator,
}

/// An address that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// It is one of the host's own.
    pub(crate) is_own: bool,
}

/// Everything that may stand against an address.
pub(crate) struct Guard {
    policy: PolicyHandle,
    host: Host,
    listeners: Vec<SocketAddr>,
    leases: Arc<Leases>,
    mark: Option<u32>,
}

impl Guard {
    pub(crate) fn new(
        policy: PolicyHandle,
        host: HostAddresses,
        listeners: Vec<SocketAddr>,
        leases: Arc<Leases>,
    ) -> Guard {
        Guard {
            policy,
            host: Host::new(host),
            listeners,
            leases,
            mark: None,
        }
    }

    /// The same for sockets that have a mark.
    pub(crate) fn with_mark(self, mark: Option<u32>) -> Guard {
        Guard { mark, ..self }
    }

    /// The mark of the sockets that pass.
    pub(crate) fn mark(&self) -> Option<u32> {
        self.mark
    }

    /// The policy in force now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Whether `to` may be dialled now: asked for each address, right before it is dialled.
    ///
    /// # Errors
    /// The reason to refuse it: `gateway-loop`, `denied-by-rule`, `private-address`; `internal`
    /// when the host's addresses cannot be read.
    pub(crate) fn check(&self, to: SocketAddr, chosen_by: ChosenBy) -> Result<Passed, Reason> {
        self.check_on(to, chosen_by, Transport::Tcp)
    }

    /// The same before datagrams are sent.
    ///
    /// # Errors
    /// As for [`Guard::check`].
    pub(crate) fn check_datagrams(
        &self,
        to: SocketAddr,
        chosen_by: ChosenBy,
    ) -> Result<Passed, Reason> {
        self.check_on(to, chosen_by, Transport::Udp)
    }

    fn check_on(
        &self,
        to: SocketAddr,
        chosen_by: ChosenBy,
        transport: Transport,
    ) -> Result<Passed, Reason> {
        let is_own = self
            .host
            .owns(to.ip().to_canonical())
            .map_err(|error| exhausted(&error).unwrap_or(Reason::Internal))?;
        if self
            .listeners
            .iter()
            .any(|&listener| reaches(to, listener, is_own))
        {
            return Err(Reason::GatewayLoop);
        }
        if to.port() == 0 {
            return Err(Reason::Malformed);
        }
        // It means something inside only: outside, whatever is there is not what the program means.
        if chosen_by == ChosenBy::Sandbox && self.leases.is_synthetic(to.ip()) {
            return Err(Reason::PrivateAddress);
        }
        let policy = self.policy.load();
        let (address, port) = (to.ip(), to.port());
        let (guarded, lifted) = match transport {
            Transport::Tcp => (policy.guard(address, port), policy.lifts(address, port)),
            Transport::Udp => (
                policy.guard_datagrams(address, port),
                policy.lifts_datagrams(address, port),
            ),
        };
        match (chosen_by, guarded) {
            (ChosenBy::Operator, _)
            | (ChosenBy::HostName | ChosenBy::Rule, Ok(()) | Err(Reason::PrivateAddress)) => {}
            (_, Err(reason)) => return Err(reason),
            (ChosenBy::Sandbox, Ok(())) if is_own && lifted.is_none() => {
                return Err(Reason::PrivateAddress);
            }
            (ChosenBy::Sandbox, Ok(())) => {}
        }
        Ok(Passed { is_own })
    }
}

#[cfg(test)]
mod tests {
    use portcullis_dns::{Clock, NoGate, SYNTHETIC_RANGE};

    use super::*;
    use crate::testing::policy;

    fn guard(rules: &str) -> Guard {
        let own = HostAddresses::Fixed(vec!["192.0.2.7".parse().unwrap()]);
        let listeners = vec!["192.0.2.8:3128".parse().unwrap()];
        let leases = Leases::new(Box::new(NoGate), Clock::manual());
        Guard::new(policy(rules), own, listeners, Arc::new(leases))
    }

    fn check(guard: &Guard, to: &str, chosen_by: ChosenBy) -> Option<Reason> {
        guard.check(to.parse().unwrap(), chosen_by).err()
    }

    #[test]
    fn internal_addresses_and_ipv6_forms_that_carry_ipv4_are_refused() {
        let guard = guard("[network.domains]\n\"a.example\" = \"allow\"");
        for to in [
            "127.0.0.1:443",
            "10.0.0.1:443",
            "172.16.0.1:443",
            "192.168.0.1:443",
            "169.254.169.254:80",
            "168.63.129.16:80",
            "100.64.0.1:443",
            "0.0.0.0:443",
            "192.0.0.1:443",
            "198.18.0.1:443",
            "224.0.0.1:443",
            "240.0.0.1:443",
            "255.255.255.255:443",
            "[::1]:443",
            "[::]:443",
            "[fe80::1]:443",
            "[fc00::1]:443",
            "[ff02::1]:443",
            "[::ffff:127.0.0.1]:443",
            "[::ffff:192.0.2.1]:443",
            "[::127.0.0.1]:443",
            "[64:ff9b::7f00:1]:443",
            "[64:ff9b:1::7f00:1]:443",
            "[2002:7f00:1::]:443",
            "[2001:0:7f00:1::]:443",
        ] {
            assert_eq!(
                check(&guard, to, ChosenBy::Sandbox),
                Some(Reason::PrivateAddress),
                "{to}"
            );
        }
        assert_eq!(check(&guard, "192.0.2.1:443", ChosenBy::Sandbox), None);
        assert_eq!(check(&guard, "[2001:db8::1]:443", ChosenBy::Sandbox), None);
    }

    #[test]
    fn the_hosts_own_interface_addresses_are_refused_unless_a_rule_lifts_them() {
        let closed = guard("");
        assert_eq!(
            check(&closed, "192.0.2.7:443", ChosenBy::Sandbox),
            Some(Reason::PrivateAddress)
        );
        let open = guard("[network.addresses]\n\"192.0.2.7:443\" = \"allow\"");
        assert_eq!(check(&open, "192.0.2.7:443", ChosenBy::Sandbox), None);
        assert_eq!(
            check(&open, "192.0.2.7:22", ChosenBy::Sandbox),
            Some(Reason::PrivateAddress)
        );
    }

    #[test]
    fn connecting_back_to_the_gateways_own_listeners_is_refused_for_everyone() {
        let guard = guard("[network.addresses]\n\"192.0.2.0/24\" = \"allow\"");
        for chosen_by in [
            ChosenBy::Sandbox,
            ChosenBy::HostName,
            ChosenBy::Rule,
            ChosenBy::Operator,
        ] {
            assert_eq!(
                check(&guard, "192.0.2.8:3128", chosen_by),
                Some(Reason::GatewayLoop)
            );
            assert_eq!(
                check(&guard, "[::ffff:192.0.2.8]:3128", chosen_by),
                Some(Reason::GatewayLoop)
            );
        }
    }

    #[test]
    fn a_rule_that_denies_an_address_stands_for_the_hosts_name_too() {
        let guard = guard("[network.addresses]\n\"127.0.0.0/8:22\" = \"deny\"");
        assert_eq!(check(&guard, "127.0.0.1:80", ChosenBy::HostName), None);
        assert_eq!(
            check(&guard, "127.0.0.1:22", ChosenBy::HostName),
            Some(Reason::DeniedByRule)
        );
        assert_eq!(check(&guard, "127.0.0.1:22", ChosenBy::Operator), None);
    }

    #[test]
    fn a_synthetic_address_is_never_dialled_though_a_rule_lifts_its_network() {
        let guard = guard("[network.addresses]\n\"198.18.0.0/15\" = \"allow\"");
        let dialled = |to| check(&guard, to, ChosenBy::Sandbox);
        assert_eq!(dialled("198.18.0.5:443"), None, "no range is in use");
        assert!(guard.leases.use_synthetic_range(SYNTHETIC_RANGE));
        assert_eq!(dialled("198.18.0.5:443"), Some(Reason::PrivateAddress));
        assert_eq!(
            dialled("[::ffff:198.19.0.5]:443"),
            Some(Reason::PrivateAddress)
        );
    }

    #[test]
    fn a_rules_target_is_dialled_wherever_it_is_unless_a_rule_denies_it() {
        let guard = guard("[network.addresses]\n\"127.0.0.0/8:22\" = \"deny\"");
        for to in ["127.0.0.1:8080", "10.0.0.1:80", "192.0.2.7:443", "[::1]:80"] {
            assert_eq!(check(&guard, to, ChosenBy::Rule), None, "{to}");
        }
        assert_eq!(
            check(&guard, "127.0.0.1:22", ChosenBy::Rule),
            Some(Reason::DeniedByRule)
        );
    }

    #[test]
    fn port_zero_is_no_destination() {
        assert_eq!(
            check(&guard(""), "192.0.2.1:0", ChosenBy::Sandbox),
            Some(Reason::Malformed)
        );
    }
}
