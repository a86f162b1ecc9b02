//! `sslcollector -C`: agents in, packets out, until a signal.

mod broker;
mod outlet;
mod report;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use agent::clock::{self, Clock};
use agent::collector::{Fleet, Listener, Workers, WorkersConfig};
use agent::forge::SequenceKey;
use agent::helper::Helper;
use agent::identity::{CollectorIdentity, collector_directory};
use agent::keep::Manager;
use agent::tunnel::frame::Instance;
use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use self::broker::{BrokerSource, OpenBroker};
use self::outlet::{Board, ColumnOutlet};
use self::report::Reporter;
use crate::column::{Column, Shown, open_log};
use crate::config::{CollectorSettings, OutputChoice};
use crate::privileges::Privileges;
use crate::run::{random, say};
use crate::signals::{Request, Signals};

/// How often signals and lines to be said are looked for.
const TURN: Duration = Duration::from_millis(20);
/// How often agents that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Workers answer within this, unless their output stands still.
const ANSWER: Duration = Duration::from_secs(2);
/// What waits is put out within this at the end.
const DRAIN: Duration = Duration::from_secs(10);
/// Agents hear of the end within this.
const FAREWELL: Duration = Duration::from_secs(3);
/// Packets of captures wait so long for others with an earlier time, in nanoseconds: agents send what they have
/// at least ten times a second.
const REORDER_NS: u64 = 200_000_000;

/// Collects as the settings say. Returns the status to exit with.
///
/// # Errors
/// What made it impossible to begin, or the output fail, with the next step.
pub(crate) fn collect(settings: &CollectorSettings) -> anyhow::Result<u8> {
    let user = settings.user.as_ref();
    let (mut privileges, _) = Privileges::begin(user, None, &settings.outputs, Vec::new())?;
    let mut signals = Signals::catch(true).context("can't catch signals")?;
    raise_descriptor_limit();
    let identity = match &settings.state {
        Some(state) => {
            let state = privileges.keep(state, collector_directory);
            Some(CollectorIdentity::load(&state)?)
        }
        None if !settings.listens() => None,
        None => {
            say(
                "WARNING: --insecure-plaintext: whoever reaches this port can send anything in any host's name, \
                 and whoever is on the way reads all clear text",
            );
            None
        }
    };
    let board = Arc::new(Board::default());
    let workers = start_workers(settings, &board, privileges.helper())?;
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("can't start threads")?;
    let epoch = Instance(random()?);
    let fleet = Fleet::new(epoch, workers, identity, settings.quota, settings.linger);
    // Its keys are read as who this was started.
    let broker = settings.broker.as_ref().map(OpenBroker::open).transpose()?;
    let manager = Manager::from_environment();
    match settings.listens() {
        true => listen(&runtime, settings, &fleet, &privileges)?,
        false => privileges.give_up()?,
    }
    board.begin();
    let broker = broker.map(|broker| BrokerSource::start(broker, &fleet));
    if let Some(manager) = &manager {
        manager.ready();
    }
    let mut reporter = Reporter::new();
    let (helper, source) = (privileges.helper(), broker.as_ref());
    serve(&fleet, &board, source, &mut signals, &mut reporter, helper);
    if let Some(manager) = &manager {
        manager.stopping();
    }
    if let Some(broker) = &broker {
        broker.hand_over(FAREWELL + DRAIN);
    }
    // Nothing more is read; what was goes out, and is acknowledged; then the agents go.
    fleet.drain();
    let reports = fleet.workers().finish(DRAIN);
    fleet.leave();
    let deadline = Instant::now() + FAREWELL;
    while fleet.connections() > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    runtime.shutdown_timeout(Duration::from_millis(100));
    say_all(&fleet, &board, broker.as_ref());
    if reports.len() < settings.workers {
        say("an output stands still: what waited for it is lost, and the agents still have it");
    }
    reporter
        .lines(&fleet, &reports, (&board.stats(), board.shown_stats()))
        .iter()
        .for_each(|line| say(line));
    broker
        .iter()
        .flat_map(BrokerSource::report)
        .for_each(|line| say(&line));
    match board.take_failure() {
        Some(error) => Err(error),
        None => Ok(0),
    }
}

fn start_workers(
    settings: &CollectorSettings,
    board: &Arc<Board>,
    helper: Option<&Helper>,
) -> anyhow::Result<Workers> {
    // No capture, which is to be in order of time.
    let interfaces_only = settings.outputs.iter().all(|output| {
        use OutputChoice::{Interface, Log, Vxlan};
        matches!(output, Interface(_) | Vxlan(_) | Log(_))
    });
    let config = WorkersConfig {
        workers: settings.workers,
        reorder_ns: if interfaces_only { 0 } else { REORDER_NS },
        ..WorkersConfig::default()
    };
    let key = SequenceKey::new(random()?);
    let log = open_log(&settings.outputs, helper)?;
    let (outputs, board) = (settings.outputs.clone(), Arc::clone(board));
    let helper = helper.cloned();
    let shown = Shown::new(
        settings.midstream,
        settings.http1,
        settings.real_clients.clone(),
    );
    Workers::start(&config, move |number| {
        let board = Arc::clone(&board);
        let mut column = Column::open(&outputs, &key, helper.as_ref(), log.as_ref())?;
        column.show(shown.beside());
        Ok(ColumnOutlet::new(number, column, board))
    })
}

fn listen(
    runtime: &Runtime,
    settings: &CollectorSettings,
    fleet: &Arc<Fleet>,
    privileges: &Privileges,
) -> anyhow::Result<()> {
    runtime.block_on(async {
        let listener = Listener::bind(&settings.listen, Arc::clone(fleet)).await?;
        // All is open, and nobody has been heard.
        privileges.give_up()?;
        let addresses = listener.addresses();
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        say(&format!(
            "collecting at {}; Ctrl-C ends",
            addresses.join(", ")
        ));
        listener.start();
        Ok(())
    })
}

/// Until a signal says stop, or no output is left.
fn serve(
    fleet: &Arc<Fleet>,
    board: &Board,
    broker: Option<&BrokerSource>,
    signals: &mut Signals,
    reporter: &mut Reporter,
    helper: Option<&Helper>,
) {
    let mut swept = Instant::now();
    // The workers have theirs; this one is for people.
    let mut clock = Clock::start();
    while !fleet.workers().has_failed() {
        for request in signals.pending() {
            match request {
                Request::Stop { .. } => return,
                Request::NextFile => {
                    fleet.workers().turn_over();
                    match fleet.reload() {
                        Ok(()) => say("reloaded: agents, networks and quotas as they are now"),
                        Err(error) => say(&format!("nothing reloaded: {error}")),
                    }
                }
                Request::PrintCounts => {
                    let reports = fleet.workers().report(ANSWER);
                    let lines =
                        reporter.lines(fleet, &reports, (&board.stats(), board.shown_stats()));
                    lines.iter().for_each(|line| say(line));
                    broker
                        .iter()
                        .flat_map(|broker| broker.report())
                        .for_each(|line| say(&line));
                }
            }
        }
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            fleet.sweep();
            let step = clock.adjust(clock::monotonic_now(), clock::wall_now());
            step.iter().for_each(|step| say(&step.to_string()));
            let gone = helper.and_then(Helper::take_complaint);
            gone.iter().for_each(|line| say(line));
            for report in fleet.workers().report(ANSWER) {
                report.complaints.iter().for_each(|line| say(line));
            }
        }
        say_all(fleet, board, broker);
        thread::sleep(TURN);
    }
}

fn say_all(fleet: &Fleet, board: &Board, broker: Option<&BrokerSource>) {
    let lines = board.take_lines().into_iter().chain(fleet.take_lines());
    let lines = lines.chain(broker.into_iter().flat_map(BrokerSource::take_notices));
    lines.for_each(|line| say(&line));
}

/// Agents are many. What the system doesn't allow isn't had.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
