//! The search list of a `resolv.conf` (resolv.conf(5)): what short names stand for.
//!
//! Programs that ask DNS make the expansions themselves, in the C library. Those that hand a name to a
//! proxy leave that to the proxy: there it is done here, before anything is decided. Answers *decision
//! and destination differ* (docs/threats.md): only the full name is decided on, looked up and dialled.

use portcullis_names::{Name, NameRef};

/// Domains of a search list that are used; the C library has had no limit since glibc 2.26.
const MAX_DOMAINS: usize = 32;

/// The most dots that `ndots` can ask for (RES_MAXNDOTS).
const MAX_NDOTS: usize = 15;

/// How names are completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchList {
    domains: Vec<Domain>,
    ndots: usize,
    no_tld_query: bool,
    no_aaaa: bool,
    /// Whether the file has a list of its own, or the host name's domain stands for one.
    is_written: bool,
}

/// One entry of a search list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Domain {
    /// `.`: the name as it is.
    Root,
    Name(Name),
}

impl Default for SearchList {
    fn default() -> SearchList {
        SearchList {
            domains: Vec::new(),
            ndots: 1,
            no_tld_query: false,
            no_aaaa: false,
            is_written: false,
        }
    }
}

impl SearchList {
    /// Reads the `search`, `domain` and `options` lines of a `resolv.conf`. The last list counts; without
    /// one the domain of the host's own name does, as for the C library.
    pub fn parse(text: &str, hostname: &str) -> SearchList {
        let mut list = SearchList::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next();
            let words = words.take_while(|word| !word.starts_with(['#', ';']));
            match keyword {
                Some("search") => list.replace(words),
                Some("domain") => list.replace(words.take(1)),
                Some("options") => words.for_each(|option| list.set(option)),
                _ => {}
            }
        }
        if !list.is_written
            && let Some((_, domain)) = hostname.split_once('.')
        {
            list.domains.extend(Domain::parse(domain));
        }
        list
    }

    /// The same as a program of this environment has it: `LOCALDOMAIN` stands for the list, and `RES_OPTIONS`
    /// adds options (resolv.conf(5)).
    #[must_use]
    pub fn amended(mut self, localdomain: Option<&str>, res_options: Option<&str>) -> SearchList {
        if let Some(domains) = localdomain {
            self.replace(domains.split_ascii_whitespace());
        }
        for option in res_options.unwrap_or_default().split_ascii_whitespace() {
            self.set(option);
        }
        self
    }

    fn replace<'t>(&mut self, domains: impl Iterator<Item = &'t str>) {
        self.domains.clear();
        let domains = domains.filter_map(Domain::parse);
        self.domains.extend(domains.take(MAX_DOMAINS));
        self.is_written = true;
    }

    fn set(&mut self, option: &str) {
        match option {
            "no-tld-query" => self.no_tld_query = true,
            "no-aaaa" => self.no_aaaa = true,
            _ => {
                let ndots = option.strip_prefix("ndots:").map(str::parse::<usize>);
                if let Some(Ok(ndots)) = ndots {
                    self.ndots = ndots.min(MAX_NDOTS);
                }
            }
        }
    }

    /// The lines of a `resolv.conf` that give a sandbox this list, and the options that its programs need
    /// to behave as outside.
    pub fn lines(&self) -> String {
        let mut lines = String::new();
        if self.is_written && !self.domains.is_empty() {
            lines.push_str("search");
            for domain in &self.domains {
                lines.push(' ');
                lines.push_str(domain.as_str());
            }
            lines.push('\n');
        }
        lines.push_str("options edns0");
        if self.ndots != 1 {
            lines.push_str(&format!(" ndots:{}", self.ndots));
        }
        for (is_set, option) in [
            (self.no_tld_query, " no-tld-query"),
            (self.no_aaaa, " no-aaaa"),
        ] {
            if is_set {
                lines.push_str(option);
            }
        }
        lines.push('\n');
        lines
    }

    /// The domains, in the order in which they complete names.
    pub fn domains(&self) -> impl Iterator<Item = &Name> {
        self.domains.iter().filter_map(|domain| match domain {
            Domain::Root => None,
            Domain::Name(name) => Some(name),
        })
    }

    /// Whether there is nothing to complete names with.
    pub fn is_empty(&self) -> bool {
        !self.domains.iter().any(|domain| *domain != Domain::Root)
    }

    /// Whether a name is tried as it is before it is completed.
    pub fn is_tried_first(&self, name: NameRef<'_>) -> bool {
        dots(name) >= self.ndots
    }

    /// What a name may stand for, in the C library's order: with `ndots` dots or more as it is and then
    /// completed, with fewer completed and then as it is.
    pub fn candidates(&self, name: NameRef<'_>) -> impl Iterator<Item = Name> {
        let as_it_is = Some(name.to_name());
        let first = self.is_tried_first(name);
        let last = !(first || self.no_tld_query && dots(name) == 0);
        let before = as_it_is.clone().filter(|_| first);
        let after = as_it_is.filter(|_| last);
        before.into_iter().chain(self.completed(name)).chain(after)
    }

    /// A name completed by each domain, in order.
    pub fn completed(&self, name: NameRef<'_>) -> impl Iterator<Item = Name> {
        self.domains.iter().filter_map(move |domain| match domain {
            Domain::Root => None,
            Domain::Name(domain) => {
                let full = format!("{name}.{domain}");
                Name::from_program(full.as_bytes()).ok()
            }
        })
    }

    /// What a rule should list for a name without dots: what is made of it first.
    pub fn full_name(&self, name: NameRef<'_>) -> Option<Name> {
        let is_bare = dots(name) == 0;
        self.completed(name).next().filter(|_| is_bare)
    }

    /// The names that this one may be a completion of: what stands before each domain that it ends with.
    pub fn shortened(&self, name: NameRef<'_>) -> impl Iterator<Item = Name> {
        self.domains.iter().filter_map(move |domain| match domain {
            Domain::Root => None,
            Domain::Name(domain) => {
                let short = name.as_str().strip_suffix(domain.as_str())?;
                let short = short.strip_suffix('.')?;
                Name::from_program(short.as_bytes()).ok()
            }
        })
    }
}

impl Domain {
    fn parse(text: &str) -> Option<Domain> {
        if text == "." {
            return Some(Domain::Root);
        }
        Name::from_program(text.as_bytes()).ok().map(Domain::Name)
    }

    fn as_str(&self) -> &str {
        match self {
            Domain::Root => ".",
            Domain::Name(name) => name.as_str(),
        }
    }
}

fn dots(name: NameRef<'_>) -> usize {
    name.labels().count().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    fn texts(names: impl Iterator<Item = Name>) -> Vec<String> {
        names.map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn lines_are_read_as_the_c_library_reads_them() {
        let list = SearchList::parse(
            "# search no.example\n; domain no.example\nnameserver 10.0.0.1\r\n\
             domain first.example\nsearch Default.SVC.Cluster.Local. svc.cluster.local\tb@d . a.example # x\r\n\
             options timeout:1 ndots:5 rotate\noptions no-aaaa ndots:x\r\n",
            "host.other.example",
        );
        assert_eq!(
            list.lines(),
            "search default.svc.cluster.local svc.cluster.local . a.example\n\
             options edns0 ndots:5 no-aaaa\n"
        );
        let domain = SearchList::parse("domain corp.example more.example\n", "");
        assert_eq!(domain.lines(), "search corp.example\noptions edns0\n");
        let all = SearchList::parse("options ndots:99\n", "");
        assert_eq!((all.ndots, all.is_empty()), (MAX_NDOTS, true));
        let many: String = (0..100).map(|i| format!(" d{i}.example")).collect();
        let many = SearchList::parse(&format!("search{many}"), "");
        assert_eq!(many.domains.len(), MAX_DOMAINS);
    }

    #[test]
    fn the_host_names_domain_stands_for_a_list_that_is_not_written() {
        let list = SearchList::parse("nameserver 10.0.0.1\n", "web1.corp.example");
        assert_eq!(
            texts(list.candidates(name("db").as_ref())),
            ["db.corp.example", "db"]
        );
        assert_eq!(list.lines(), "options edns0\n", "the C library finds it");
        let none = SearchList::parse("search .\n", "web1.corp.example");
        assert!(none.is_empty());
        assert_eq!(none.lines(), "search .\noptions edns0\n");
    }

    #[test]
    fn the_environment_amends_what_the_file_says() {
        let list = SearchList::parse("search a.example\noptions ndots:2\n", "");
        assert_eq!(list.clone().amended(None, None), list);
        let other = list
            .clone()
            .amended(Some("b.example c.example"), Some("ndots:3 no-aaaa"));
        assert_eq!(
            other.lines(),
            "search b.example c.example\noptions edns0 ndots:3 no-aaaa\n"
        );
        assert!(list.amended(Some(""), None).is_empty());
    }

    #[test]
    fn names_are_completed_in_the_c_librarys_order() {
        let list = SearchList::parse("search a.example b.example\noptions ndots:2", "");
        assert_eq!(
            texts(list.candidates(name("db").as_ref())),
            ["db.a.example", "db.b.example", "db"]
        );
        assert_eq!(
            texts(list.candidates(name("x.db.c").as_ref())),
            ["x.db.c", "x.db.c.a.example", "x.db.c.b.example"]
        );
        let long = name(&format!("{0}.{0}.{0}.{0}", "x".repeat(62)));
        assert_eq!(texts(list.candidates(long.as_ref())).len(), 1);
        assert_eq!(texts(list.shortened(name("db.a.example").as_ref())), ["db"]);
        assert_eq!(list.shortened(name("a.example").as_ref()).count(), 0);
        assert_eq!(list.shortened(name("dba.example").as_ref()).count(), 0);
        let strict = SearchList::parse("search a.example\noptions no-tld-query", "");
        assert_eq!(
            texts(strict.candidates(name("db").as_ref())),
            ["db.a.example"]
        );
    }
}
