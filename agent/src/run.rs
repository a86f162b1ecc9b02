//! The whole column on one screen: rings and wire in, packets out, until a signal or the program's end.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use agent::clock::{self, Clock};
use agent::event::WallTime;
use agent::flow::counters::sockets::KernelLooker;
use agent::flow::proof::kernel::KernelSockets;
use agent::flow::{
    Capture, CaptureConfig, CaptureError, Mapper, MapperConfig, OpenCapture, ProcNetworks,
};
use agent::forge::SequenceKey;
use agent::helper::Helper;
use agent::intake::{Intake, Listener, PollOutcome};
use agent::keep::{Inherited, Manager};
use anyhow::Context;
use rustix::process::Signal;

use crate::column::{Broken, Column, Shown, open_log};
use crate::config::{LogChoice, Mode, OutputChoice, Settings, WatchChoice};
use crate::diagnosis::diagnose;
use crate::launch::{Exit, Running, Terms};
use crate::place::Place;
use crate::privileges::Privileges;
use crate::report::Counts;
use crate::signals::{Request, Signals};

/// A thread may have been put to sleep between reading the clock and writing its record: packets
/// wait this long for others with an earlier time.
const REORDER_NS: u64 = 20_000_000;
/// How long the agent sleeps at most while nothing happens, so that it notices the program's end.
const IDLE: Duration = Duration::from_millis(20);
/// A clock that is set again and again is told of so often, and counted.
const STEPS_TOLD: u64 = 8;
/// How often a reader who takes its time is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// After which time whoever still has a ring behind the program's end is said to go on, and a reader who takes its time
/// to be waited for; how often the helper is looked at.
const NOTICE: Duration = Duration::from_millis(500);

/// Mirrors as the settings say, and goes on with what the service manager has `kept`. Returns the status to exit with.
///
/// # Errors
/// What made it impossible to begin, or the output fail, with the next step.
pub(crate) fn run(settings: &Settings, kept: Vec<Inherited>) -> anyhow::Result<u8> {
    // What `run` starts is nobody's service.
    let manager = match settings.mode {
        Mode::Serve { .. } => Manager::from_environment(),
        Mode::Run(_) => None,
    };
    let keeper = manager.as_ref().filter(|manager| manager.keeps()).cloned();
    // An agent that goes on where another stopped must not overwrite what that one has written.
    let mut outputs: Vec<_> = match &keeper {
        Some(_) => settings.outputs.iter().map(OutputChoice::unused).collect(),
        None => settings.outputs.clone(),
    };
    let socket = match &settings.mode {
        Mode::Serve { socket } => Some(&**socket),
        Mode::Run(_) => None,
    };
    let (mut privileges, mut kept) =
        Privileges::begin(settings.user.as_ref(), socket, &outputs, kept)?;
    privileges.keep_all(&mut outputs);
    let helper = privileges.helper();
    let serves = matches!(settings.mode, Mode::Serve { .. });
    let mut signals = Signals::catch(serves).context("can't catch signals")?;
    let capture = watch(&settings.watch)?;
    if let Some(capture) = &capture {
        capture.complaints().for_each(say);
    }
    let place = Place::make(&settings.mode)?;
    let log = open_log(&outputs, helper)?;
    let key = SequenceKey::new(random()?);
    let mut column = Column::open(&outputs, &key, helper, log.as_ref())?;
    column.show(Shown::new(
        settings.midstream,
        settings.http1,
        settings.real_clients.clone(),
    ));
    column.take_complaints().iter().for_each(|line| say(line));
    let listening = "can't listen for programs";
    let config = place.intake_config(settings);
    let listener = Listener::new(&config.listen, &mut kept).context(listening)?;
    privileges.give_up()?;
    column.begin()?;
    let capture = capture.map(OpenCapture::start).transpose();
    let capture = capture.context("can't watch handshakes")?;
    let mut intake = Intake::listening(config, listener, keeper.clone(), kept, helper.cloned())
        .context(listening)?;
    intake.take_complaints().iter().for_each(|line| say(line));
    let mapper = MapperConfig {
        capture: capture.is_some(),
        first_flow: intake.first_flow(),
        reports_settled: keeper.is_some(),
        seed: random()?,
        ..MapperConfig::default()
    };
    let claims = Box::new(KernelSockets::new(helper.cloned()));
    let mut mapper = Mapper::new(mapper, Clock::start()).asking(claims);
    mapper.ask_networks(Box::new(ProcNetworks::default()));
    // Where the wire is watched, that finds what can be found; whoever runs one program may have nothing to watch.
    let tell_sockets = capture.is_none() && !serves;
    if capture.is_none() || !serves {
        mapper = mapper.looking(Box::new(KernelLooker::new()), tell_sockets);
    }
    let mut agent = Agent {
        settings,
        keeps: keeper.is_some(),
        intake,
        mapper,
        column,
        capture,
        helper: helper.cloned(),
        looked_at_helper: Instant::now(),
        broken: None,
        blind: false,
        hurried: false,
        ending: false,
    };
    let (status, program) = match &settings.mode {
        Mode::Serve { socket } => {
            say(&format!(
                "serving programs at {}; Ctrl-C ends",
                socket.display()
            ));
            if let Some(manager) = &manager {
                manager.ready();
            }
            agent.serve(&mut signals);
            if let Some(manager) = &manager {
                manager.stopping();
            }
            (0, None)
        }
        Mode::Run(program) => {
            let stdout = settings.outputs.iter().find_map(|output| match output {
                OutputChoice::Stdout => Some("capture"),
                OutputChoice::Log(LogChoice::Stdout) => Some("log"),
                _ => None,
            });
            if let Some(what) = stdout {
                say(&format!(
                    "standard output carries the {what}: what the program prints there goes to standard error"
                ));
            }
            let terms = Terms {
                socket: place.socket(),
                ring_bytes: settings.ring_bytes,
                wait_ms: settings.wait_ms,
                filters: &settings.filters,
                tell_sockets,
                stdout_to_stderr: stdout.is_some(),
            };
            let running = Running::start(program, &terms)?;
            (
                agent.accompany(running, &mut signals)?.code(),
                Some(program),
            )
        }
    };
    let (counts, broken) = agent.finish(&mut signals);
    counts.lines().iter().for_each(|line| say(line));
    if let Some(program) = program.filter(|_| !counts.saw_tls()) {
        say(&format!("no TLS was seen: {}", diagnose(program)));
    }
    match broken {
        Some(error) => Err(error),
        None => Ok(status),
    }
}

struct Agent<'s> {
    settings: &'s Settings,
    /// The next agent gets the rings.
    keeps: bool,
    intake: Intake,
    capture: Option<Capture>,
    mapper: Mapper,
    column: Column,
    /// Does what this process may not.
    helper: Option<Helper>,
    looked_at_helper: Instant,
    /// Why an output isn't written any more, the first one that failed.
    broken: Option<anyhow::Error>,
    /// None is left. The programs that are mirrored go on all the same.
    blind: bool,
    /// Somebody has asked for the end: nobody is waited for longer than has to be.
    hurried: bool,
    /// Nothing more comes.
    ending: bool,
}

impl Agent<'_> {
    /// Until a signal says stop, or no output is left.
    fn serve(&mut self, signals: &mut Signals) {
        while !self.blind {
            for request in signals.pending() {
                match request {
                    Request::Stop { .. } => {
                        self.hurried = true;
                        return;
                    }
                    Request::NextFile => {
                        let now = self.mapper.wall(clock::monotonic_now());
                        let broken = self.column.turn_over(now);
                        self.note(broken);
                    }
                    Request::PrintCounts => self.print_counts(),
                }
            }
            self.turn_or_wait();
        }
    }

    /// Until the program has ended, and whatever it left behind that is mirrored.
    fn accompany(&mut self, mut program: Running, signals: &mut Signals) -> anyhow::Result<Exit> {
        let mut stops = 0;
        let mut alone_since = None;
        let mut told = false;
        loop {
            for request in signals.pending() {
                match request {
                    // Some programs signal their whole process group (httpd, at its end): the program
                    // knows it already.
                    Request::Stop {
                        sender: Some(sender),
                        ..
                    } if program.is(sender) => {}
                    Request::Stop {
                        signal,
                        from_terminal,
                        ..
                    } => {
                        stops += 1;
                        self.hurried = true;
                        // Who asks twice means it.
                        let signal = if stops > 1 { Signal::KILL } else { signal };
                        if !from_terminal || stops > 1 {
                            program.signal(signal);
                        }
                    }
                    // A program is run for the length of one file.
                    Request::NextFile => {}
                    Request::PrintCounts => self.print_counts(),
                }
            }
            // Asked before the rings are: what it wrote before its end is in them.
            let exit = program.poll()?;
            let worked = self.turn_or_wait();
            let Some(exit) = exit.filter(|_| !worked) else {
                continue;
            };
            // Of those that haven't said anything yet the number isn't known.
            let silent = usize::from(self.intake.withheld() > 0);
            let left = self.intake.processes().count() + silent;
            if left == 0 || stops > 0 {
                return Ok(exit);
            }
            // Their ends may not have been noticed yet: that takes no longer than this.
            let alone_since: Instant = *alone_since.get_or_insert_with(Instant::now);
            if !told && alone_since.elapsed() > NOTICE {
                told = true;
                say(&format!(
                    "the program has ended, {left} of its processes go on; Ctrl-C ends"
                ));
            }
        }
    }

    /// One turn of the column, and a wait if there isn't more to do. Says whether there was something.
    fn turn_or_wait(&mut self) -> bool {
        let outcome = self.turn();
        if !outcome.more {
            self.look_at_helper();
            self.intake.wait(IDLE);
        }
        outcome.worked
    }

    /// Says if the helper is gone.
    fn look_at_helper(&mut self) {
        if let Some(helper) = &self.helper
            && self.looked_at_helper.elapsed() > NOTICE
        {
            self.looked_at_helper = Instant::now();
            if let Some(complaint) = helper.take_complaint() {
                say(&complaint);
            }
        }
    }

    fn turn(&mut self) -> PollOutcome {
        let now = clock::monotonic_now();
        let step = self.mapper.adjust_clock(now, clock::wall_now());
        if let Some(step) = step.filter(|_| self.mapper.stats().clock_steps <= STEPS_TOLD) {
            say(&step.to_string());
        }
        let Self {
            intake,
            capture,
            mapper,
            column,
            ..
        } = self;
        // The wire first: a session finds its handshake there already.
        for fact in capture.iter().flat_map(Capture::facts) {
            mapper.wire_fact(fact, now, column);
        }
        let outcome = intake.poll(&mut |event| mapper.session_event(event, now, column));
        if outcome.attached > 0 {
            let processes: Vec<_> = intake.processes().collect();
            let new = processes.iter().rev().take(outcome.attached);
            new.for_each(|process| mapper.expect(process, now));
        }
        mapper.expire(now, column);
        note_settled(mapper, intake);
        // Whatever has an earlier time than this has been read, or waits in the mapper.
        let complete = WallTime(mapper.wall(now).0.saturating_sub(REORDER_NS));
        let until = mapper
            .oldest_held()
            .map_or(complete, |held| held.min(complete));
        let released = column.release(until);
        self.note(released);
        outcome
    }

    /// Reads what is left, ends what is live, and completes the output.
    fn finish(mut self, signals: &mut Signals) -> (Counts, Option<anyhow::Error>) {
        // What the next agent gets needn't be read, and may never end.
        while !self.keeps && self.turn().worked {}
        let now = clock::monotonic_now();
        let Self {
            intake,
            mapper,
            column,
            ..
        } = &mut self;
        intake.shutdown(&mut |event| mapper.session_event(event, now, column));
        mapper.finish(now, column);
        note_settled(mapper, intake);
        let at = mapper.wall(now);
        self.ending = true;
        let ended = self.column.end(at);
        self.note(ended);
        // Who reads at a pipe may take its time, as of any program, until somebody asks for the end.
        let since = Instant::now();
        let mut told = false;
        while !self.hurried && self.column.is_awaited() {
            if !told && since.elapsed() > NOTICE {
                told = true;
                say("what is left waits for its reader; Ctrl-C ends");
            }
            let mut requests = signals.pending();
            self.hurried = requests.any(|request| matches!(request, Request::Stop { .. }));
            std::thread::sleep(LOOK);
        }
        let finished = self.column.finish(at);
        self.note(finished);
        (self.counts(), self.broken)
    }

    /// Says what has become of outputs; keeps the first failure.
    fn note(&mut self, broken: Vec<Broken>) {
        self.column
            .take_complaints()
            .iter()
            .for_each(|line| say(line));
        for output in broken {
            self.blind |= output.last;
            if self.ending {
                // The first failure is what this command ends with.
                if !output.is_failure() || self.broken.is_some() {
                    say(&output.to_string());
                }
            } else if !output.last {
                say(&format!("{output}; the other output goes on"));
            } else if matches!(self.settings.mode, Mode::Run(_)) {
                say(&format!("{output}; the program goes on"));
            } else if !output.is_failure() {
                say(&output.to_string());
            }
            if output.is_failure() {
                self.broken
                    .get_or_insert_with(|| anyhow::anyhow!(output.to_string()));
            }
        }
    }

    fn counts(&mut self) -> Counts {
        Counts {
            intake: self.intake.stats(),
            flow: *self.mapper.stats(),
            outputs: self.column.stats(),
            shown: self.column.shown_stats(),
            capture: self.capture.as_ref().map(Capture::stats),
        }
    }

    fn print_counts(&mut self) {
        self.counts().lines().iter().for_each(|line| say(line));
    }
}

/// Opens what handshakes are watched on, so that those of the first program are seen.
fn watch(choice: &WatchChoice) -> anyhow::Result<Option<OpenCapture>> {
    match choice {
        WatchChoice::Nowhere => Ok(None),
        WatchChoice::Interfaces(interfaces) => {
            let config = CaptureConfig {
                interfaces: interfaces.clone(),
            };
            Ok(Some(
                OpenCapture::open(&config).context("can't watch handshakes")?,
            ))
        }
        WatchChoice::AnyIfAllowed => match OpenCapture::open(&CaptureConfig::default()) {
            Ok(capture) => Ok(Some(capture)),
            Err(CaptureError::NotPermitted { .. }) => Ok(None),
            Err(error) => Err(error).context("can't watch handshakes (-I none does without)"),
        },
    }
}

/// What has become of sessions goes where the next agent finds it.
fn note_settled(mapper: &mut Mapper, intake: &mut Intake) {
    for (key, settled) in mapper.take_settled() {
        intake.settled(key, &settled);
    }
}

/// Sixteen bytes that nobody can guess.
pub(crate) fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("the kernel gives no random bytes")?;
    Ok(bytes)
}

/// Prints a line on standard error. That nobody reads it any more is no reason to fail.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "sslcollector: {line}");
}
