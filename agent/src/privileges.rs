//! One process becomes two, and the one that goes on here gives its privileges up.
//!
//! ```text
//! begin: the helper is made ─> all that needs a privilege is opened ─> give_up ─> what is foreign is read
//! ```

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use agent::helper::{self, BecomeError, Duties, Duty, Helper, User};
use agent::identity::agent_directory;
use agent::keep::Inherited;
use agent::output::LogTarget;
use anyhow::Context;
use rustix::fs::{Access, access};

use crate::config::{LogChoice, OutputChoice};
use crate::run::say;
use crate::{pair, rotation};

/// The privileges of a process that was started as root, until they are given up; of another one, none.
#[derive(Debug)]
pub(crate) struct Privileges {
    user: Option<User>,
    helper: Option<Helper>,
    /// What this process goes on writing to.
    directories: Vec<PathBuf>,
    /// Those above them, where they are reached by these alone.
    held: Vec<File>,
}

impl Privileges {
    /// Becomes two processes, if it is to be another `user` one day. The helper knows what it may be asked for: about
    /// programs that connect to the `socket`, about those whose rings the service manager has `kept`, and what these
    /// `outputs` need later; and learns nothing else.
    ///
    /// # Errors
    /// There is no second process; says what to do.
    pub(crate) fn begin(
        user: Option<&User>,
        socket: Option<&Path>,
        outputs: &[OutputChoice],
        kept: Vec<Inherited>,
    ) -> anyhow::Result<(Self, Vec<Inherited>)> {
        let mut this = Self {
            user: user.cloned(),
            helper: None,
            directories: Vec::new(),
            held: Vec::new(),
        };
        if user.is_none() {
            return Ok((this, kept));
        }
        let duties = Duties {
            socket: socket.map(Path::to_owned),
            outputs: outputs.iter().map(duty).collect(),
        };
        let (helper, kept) = helper::start(duties, kept)
            .context("can't become two processes (`--user root` does with one)")?;
        for complaint in helper::renounce() {
            say(&complaint);
        }
        this.helper = Some(helper);
        Ok((this, kept))
    }

    /// This process goes on writing to `part` of the directory `state`, whoever it becomes. Returns how that is called
    /// from now on: its user may not get to it by its name (below a home of root's, say).
    pub(crate) fn keep(&mut self, state: &Path, part: impl Fn(&Path) -> PathBuf) -> PathBuf {
        let Some(user) = &self.user else {
            return state.to_owned();
        };
        let mut state = state.to_owned();
        if !user.may_pass_to(&state)
            && let Ok(held) = File::open(&state)
        {
            state = format!("/proc/self/fd/{}", held.as_raw_fd()).into();
            self.held.push(held);
        }
        self.directories.push(part(&state));
        state
    }

    /// The outputs as they are to be opened: those that keep something do so where their user may.
    pub(crate) fn keep_all(&mut self, outputs: &mut [OutputChoice]) {
        for output in outputs {
            if let OutputChoice::Tunnel(choice) = output
                && !choice.plaintext
            {
                choice.state = self.keep(&choice.state, agent_directory);
            }
        }
    }

    /// Who does what this process may not, later.
    pub(crate) fn helper(&self) -> Option<&Helper> {
        self.helper.as_ref()
    }

    /// All is open: nothing foreign has been read yet.
    ///
    /// # Errors
    /// Something is left; says what to do. That the user may not be changed at all is said, and is none.
    pub(crate) fn give_up(&self) -> anyhow::Result<()> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        for directory in &self.directories {
            if let Err(error) = helper::give(directory, user) {
                say(&format!(
                    "can't give {} to user {}: {error}",
                    directory.display(),
                    user.name
                ));
            }
        }
        match helper::become_user(user) {
            Ok(()) => {
                self.directories.iter().for_each(|one| reach(one, user));
                Ok(())
            }
            Err(error @ BecomeError::NotPermitted { .. }) => {
                say(&format!(
                    "{error}: goes on as root. A container needs CAP_SETUID and CAP_SETGID for that; `--user root` \
                     says that it is meant so"
                ));
                Ok(())
            }
            Err(error) => Err(error).context("can't give up privileges (`--user root` keeps them)"),
        }
    }
}

/// Says so if a directory lies where its owner can't get to.
fn reach(directory: &Path, user: &User) {
    if let Err(error) = access(directory, Access::WRITE_OK | Access::EXEC_OK) {
        say(&format!(
            "user {} can't write to {} ({error}), where renewed certificates and agents are noted: let it pass through the directories \
             above (chmod o+x), give another --state, or --user root",
            user.name,
            directory.display(),
        ));
    }
}

fn duty(output: &OutputChoice) -> Duty {
    match output {
        OutputChoice::File(path, rotation) => {
            let (base, keep) = (path.clone(), rotation.keep);
            Duty::Files(Box::new(move || rotation::open_next(&base, keep)))
        }
        OutputChoice::Log(LogChoice::File(path)) => {
            let path = path.clone();
            Duty::Files(Box::new(move || LogTarget::open_next(&path)))
        }
        OutputChoice::Interface(choice) if choice.create => {
            let name = choice.name.clone();
            Duty::Interface(Box::new(move || {
                pair::make(&name).map_err(|error| format!("{error:#}"))
            }))
        }
        OutputChoice::Interface(_)
        | OutputChoice::Stdout
        | OutputChoice::Log(LogChoice::Stdout)
        | OutputChoice::Summary
        | OutputChoice::Broker(_)
        | OutputChoice::Tunnel(_)
        | OutputChoice::Vxlan(_)
        | OutputChoice::Readers(_) => Duty::Nothing,
    }
}
