//! The compiled rules, and how they are put together.
//!
//! Nothing here depends on the order in which rules were written (an order that comes from a
//! hash map would change results from run to run): deny wins wherever it stands, and among allows the
//! most specific pattern supplies the ports.

use std::sync::Arc;

use portcullis_names::Target;

use super::info::{Infos, NOT_A_NAME, Place, RuleInfo};
use super::names::NameTable;
use super::names_builder::NamesBuilder;
use super::nets::{NetTable, NetsBuilder};
use super::ports::Ports;
use super::rule::{RuleId, Terms};
use super::terms::RuleTerms;
use crate::types::TypeSet;

/// Most rules of one policy, of all its files together.
pub const MAX_RULES: usize = 4_000_000;

/// All rules, compiled.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    pub names: NameTable,
    pub nets: NetTable,
    /// What is served for names whose rules do not say.
    pub types: TypeSet,
    /// In `limited` mode: what holds for connections whose rules say nothing.
    pub limited: Option<Arc<RuleTerms>>,
    infos: Infos,
}

impl RuleSet {
    pub fn info(&self, id: RuleId) -> Option<RuleInfo<'_>> {
        self.infos.get(id, |at, len| self.names.text(at, len))
    }

    pub fn len(&self) -> usize {
        self.infos.len()
    }
}

/// Collects rules.
#[derive(Default)]
pub(crate) struct RuleSetBuilder {
    names: NamesBuilder,
    nets: NetsBuilder,
    infos: Infos,
    /// For each rule whether its text is simply its base name.
    plain: Vec<bool>,
}

impl RuleSetBuilder {
    /// Adds a rule, written as `text` at `place`.
    ///
    /// # Errors
    /// A sentence, if there are more rules or sets of terms than a policy may have.
    pub fn push(
        &mut self,
        target: &Target,
        terms: Terms,
        text: &str,
        place: Place,
    ) -> Result<RuleId, String> {
        if self.infos.len() >= MAX_RULES {
            return Err(format!("a policy may have {MAX_RULES} rules at most"));
        }
        let (id, text_at) = self.infos.push(text, place, terms.denies)?;
        let ports = Ports::of(target, terms.denies);
        match target {
            Target::Name { pattern, .. } => {
                let base = pattern.base().as_str();
                self.plain.push(base == text);
                let base_at = match offset_of(base, text) {
                    Some(offset) => text_at + offset,
                    None => self.infos.text(base)?,
                };
                self.names.push(id, base_at, pattern, ports, terms)?;
            }
            Target::Net { net, .. } => {
                self.plain.push(false);
                self.nets.push(id, *net, ports, terms);
            }
        }
        Ok(id)
    }

    /// Compiles the rules; `sources` are what their numbers mean, `types` what is served for names
    /// whose rules do not say, and in `limited` mode requests have its methods alone.
    ///
    /// # Errors
    /// A sentence, if their texts together are too long.
    pub fn build(
        self,
        sources: Vec<Box<str>>,
        types: TypeSet,
        limited: bool,
    ) -> Result<RuleSet, String> {
        let RuleSetBuilder {
            names,
            nets,
            mut infos,
            plain,
        } = self;
        let mut places = vec![NOT_A_NAME; infos.len()];
        let place = |id: RuleId, at: u32| {
            let index = id.0 as usize;
            if let (Some(place), Some(true)) = (places.get_mut(index), plain.get(index)) {
                *place = at;
            }
        };
        let order = |a, b| infos.order(&sources, a, b);
        let names = names.build(infos.texts(), limited, order, place)?;
        let nets = nets.build(limited, order);
        infos.settle(&places, sources);
        Ok(RuleSet {
            names,
            nets,
            types,
            limited: limited.then(|| Arc::new(RuleTerms::limited())),
            infos,
        })
    }
}

/// Where a base stands in the text of its rule, if it is written there in canonical form.
fn offset_of(base: &str, text: &str) -> Option<u32> {
    let wild = text.len() - text.trim_start_matches(['*', '.']).len();
    let rest = text.get(wild..)?.strip_prefix(base)?;
    let ends = rest.is_empty() || rest.starts_with([':', '.']);
    ends.then(|| u32::try_from(wild).ok()).flatten()
}
