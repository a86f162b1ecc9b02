//! Chromium without a window, which loads a page with a profile of its own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::place::{HOST, Place};
use crate::process::{find, until};

const OPTIONS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    // A container's may be small.
    "--disable-dev-shm-usage",
    "--ignore-certificate-errors",
    "--no-proxy-server",
];

/// Chromium and what it starts, which is a process group of its own and goes with this.
#[derive(Debug)]
struct Browser(Child);

/// The document that a page of [`HOST`] has made, once all that it needs is loaded.
///
/// # Panics
/// If there is no Chromium, or it fails.
pub fn page(place: &Place, url: &str) -> String {
    let chromium = find("chromium").expect("no chromium (scripts/install-peers.sh test)");
    let home = place.path("chromium");
    // A cache would answer in a server's place.
    let _ = fs::remove_dir_all(&home);
    fs::create_dir(&home).expect("make a directory");
    let (document, said) = (place.path("out/document"), place.path("out/chromium"));
    let mut command = Command::new(chromium);
    command.args(OPTIONS).arg("--dump-dom");
    command.arg(format!("--host-resolver-rules=MAP {HOST} 127.0.0.1"));
    command.arg(format!("--user-data-dir={}", home.join("data").display()));
    command.arg(url).env("HOME", &home).stdin(Stdio::null());
    command.stdout(File::create(&document).expect("a file"));
    command.stderr(File::create(&said).expect("a file"));
    let mut browser = Browser(command.process_group(0).spawn().expect("Chromium"));
    until("Chromium ends", || browser.ended());
    // It leaves helpers behind, which end a moment later by themselves.
    browser.end_all();
    let status = browser.0.wait().expect("wait for a child");
    let document = fs::read_to_string(document).unwrap_or_default();
    assert!(
        status.success() && document.contains("</html>"),
        "{status}: {}",
        fs::read_to_string(said).unwrap_or_default()
    );
    document
}

impl Browser {
    fn group(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// As long as it isn't waited for, its group's id is nobody else's.
    fn ended(&self) -> Option<()> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.group()), options);
        status.expect("wait for a child").map(|_| ())
    }

    fn end_all(&self) {
        let _ = kill_process_group(self.group(), Signal::KILL);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Once it was waited for, its group is empty and its id may be another's.
        if let Ok(None) = self.0.try_wait() {
            self.end_all();
            let _ = self.0.wait();
        }
    }
}
