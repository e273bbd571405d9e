//! A container of a schedule, as the model knows it.

use super::act::{Act, States, known};
use super::fault::Fault;
use crated_api::crated::engine::v1::ContainerSummary;
use std::fmt;

/// One name, what stands there, and what may.
pub(super) struct Place {
    pub(super) name: String,
    /// The name that a rename gives, whether or not it was heard of.
    pub(super) new: Option<String>,
    /// It ends at once, with 7.
    pub(super) short: bool,
    /// States that are right now.
    may: States,
    /// States that operations may still lead to whose end nobody was told of.
    late: States,
    /// Whether its shim or its process was killed since it was made.
    struck: bool,
}

impl Place {
    pub(super) fn new(name: String) -> Self {
        Self { name, new: None, short: false, may: States::from(["-"]), late: States::new(), struck: false }
    }

    /// Whether nothing stands there for sure.
    pub(super) fn is_free(&self) -> bool {
        self.may.iter().chain(&self.late).all(|state| *state == "-")
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name == name || self.new.as_deref() == Some(name)
    }

    /// What may be after an operation.
    pub(super) fn expect(&mut self, act: Act, done: bool, fault: &Fault) {
        let before: States = self.may.union(&self.late).copied().collect();
        let certain = self.late.is_empty() && before.len() == 1 && (self.new.is_none() || act == Act::Rename);
        let hurt = fault.ends_containers() && before.iter().any(|state| *state != "-")
            || fault.ends_containers() && !matches!(act, Act::Create);
        self.struck |= hurt;
        if done {
            self.may =
                before.iter().filter(|state| act.is_fine(state)).map(|state| act.after(state, self.short)).collect();
            assert!(!self.may.is_empty() || !certain, "{act:?} succeeded on {before:?}");
            if act == Act::Remove {
                (self.may, self.late, self.struck) = (States::from(["-"]), States::new(), false);
            }
            if act == Act::Rename && certain {
                self.name = self.new.take().expect("a rename has a new name");
            }
        } else {
            let fine = certain && before.iter().all(|state| act.is_fine(state));
            assert!(*fault != Fault::None || !fine, "{act:?} failed on {before:?}, and nothing disturbed it");
            self.may = before.iter().flat_map(|state| act.between(state, self.short)).collect();
            if *fault != Fault::None {
                self.late.extend(self.may.iter().copied());
            }
        }
        if hurt && act != Act::Remove {
            self.may.insert("exited");
            self.late.extend(["exited"]);
        }
    }

    fn find<'a>(&self, listed: &'a [ContainerSummary]) -> Option<&'a ContainerSummary> {
        listed.iter().find(|container| self.is_named(&container.name))
    }

    fn state(&self, listed: &[ContainerSummary]) -> &'static str {
        self.find(listed).map_or("-", |container| known(&container.state))
    }

    /// Whether what is listed may be.
    pub(super) fn allows(&self, listed: &[ContainerSummary]) -> bool {
        let state = self.state(listed);
        let exit = self.find(listed).map_or(0, |container| container.exit_status);
        let count = listed.iter().filter(|container| self.is_named(&container.name)).count();
        // A short life says 7, unless it was struck, never began, or its start was taken back.
        let right = !self.short || self.struck || state != "exited" || exit == 7 || !self.late.is_empty();
        count <= 1 && right && (self.may.contains(state) || self.late.contains(state))
    }

    /// Takes what is listed for what is.
    pub(super) fn see(&mut self, listed: &[ContainerSummary]) {
        self.may = States::from([self.state(listed)]);
        if self.late.iter().all(|state| self.may.contains(state)) {
            self.late.clear(); // nothing else can come
        }
        if let Some(found) = self.find(listed)
            && self.new.as_deref() == Some(&found.name)
        {
            self.name.clone_from(&found.name);
            self.new = None;
        }
    }

    /// What is wanted, for a failure.
    pub(super) fn wish(&self) -> String {
        format!("{} in {:?} or later {:?}", self.name, self.may, self.late)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.short { "short " } else { "" };
        write!(f, "{kind}{} {:?}", self.name, self.may)?;
        if !self.late.is_empty() {
            write!(f, " later {:?}", self.late)?;
        }
        Ok(())
    }
}
