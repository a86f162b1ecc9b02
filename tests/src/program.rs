//! The client of `tests/data/attach.c` as it runs, waiting at some of its steps.

use std::path::PathBuf;

use crate::attach::{Connection, Run, Scenario};
use crate::process::{Process, until};

/// Steps whose argument is a file in the scenario's place.
const WITH_FILE: [&str; 4] = ["wait", "leave", "idle", "spawn"];

/// A program that waits for us at some of its steps.
#[derive(Debug)]
pub struct Program<'s> {
    scenario: &'s Scenario<'s>,
    /// The client.
    pub process: Process,
}

impl<'s> Program<'s> {
    /// Steps of the form `wait:NAME` wait for [`Program::go_on`]; their files, and those of others, lie in the
    /// scenario's place.
    pub fn start(scenario: &'s Scenario<'s>, steps: &[&str]) -> Self {
        let steps: Vec<_> = steps
            .iter()
            .map(|step| match step.split_once(':') {
                Some((step, name)) if WITH_FILE.contains(&step) => {
                    format!("{step}:{}", file(scenario, name).display())
                }
                _ => (*step).to_owned(),
            })
            .collect();
        let words = scenario.words(&steps);
        let process = Process::start_piped(&mut scenario.patched(&words));
        Self { scenario, process }
    }

    /// Waits until it is at a step that waits.
    ///
    /// # Panics
    /// If it never is.
    pub fn waits_at(&self, name: &str) {
        self.has_made(name, "here");
    }

    /// Waits for a file of a step's; what is in it.
    ///
    /// # Panics
    /// If it never comes.
    pub fn has_made(&self, name: &str, what: &str) -> String {
        let path = file(self.scenario, &format!("{name}.{what}"));
        until(&path.display().to_string(), || {
            std::fs::read_to_string(&path).ok()
        })
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// If the file can't be written.
    pub fn go_on(&self, name: &str) {
        let go = file(self.scenario, &format!("{name}.go"));
        std::fs::write(go, "").expect("let it go on");
    }

    /// What it has said, which must have ended well.
    ///
    /// # Panics
    /// If it hasn't.
    pub fn end(self) -> Vec<Connection> {
        let run = Run::of(self.process.output());
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stdout.ends_with("done\n"), "{run:?}");
        for complaint in ["has changed", "leaves"] {
            assert!(!run.stdout.contains(complaint), "{run:?}");
        }
        run.connections
    }
}

/// Where a program's file of this name is.
pub fn file(scenario: &Scenario<'_>, name: &str) -> PathBuf {
    scenario.place.path("out").join(name)
}
