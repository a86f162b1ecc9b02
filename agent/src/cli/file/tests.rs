use std::path::Path;

use agent::midstream::Midstream;

use super::super::Command;
use super::*;

const EXAMPLE: &str = include_str!("../../../../packaging/sslcollector.toml");

struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    fs::write(&path, text).unwrap();
    File {
        _directory: directory,
        path,
    }
}

fn read_with(text: &str, words: &[&str]) -> Result<Invocation, Misuse> {
    let file = file(text);
    let mut all: Vec<OsString> = vec!["sslcollector".into(), "--config".into()];
    all.push(file.path.clone().into());
    all.extend(words.iter().map(OsString::from));
    read(all)
}

fn good(text: &str, words: &[&str]) -> Cli {
    match read_with(text, words) {
        Ok(invocation) => invocation.cli,
        Err(misuse) => panic!("{misuse:?}"),
    }
}

/// Each fault behind the file's name.
fn faults(text: &str, words: &[&str]) -> Vec<String> {
    match read_with(text, words) {
        Err(Misuse::File(lines)) => lines
            .iter()
            .map(|line| {
                line.split_once("x.toml:")
                    .map_or(line.as_str(), |(_, end)| end)
                    .to_owned()
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_a_command_line() {
    let text = "
        write = 'out.pcapng'
        interface = ['eth0', 'eth1']
        [packets]
        output = 'mirror0'
        vlan = 7
        create = true
        force = false
        pace = '2.5G'
    ";
    let cli = good(text, &[]);
    assert_eq!(
        cli.serve.output.capture.write.as_deref(),
        Some(Path::new("out.pcapng"))
    );
    assert_eq!(cli.serve.mirror.interfaces, ["eth0", "eth1"]);
    assert!(cli.serve.output.interface.create && !cli.serve.output.interface.force);
    let same = [
        "sslcollector",
        "-w",
        "out.pcapng",
        "-I",
        "eth0",
        "-I",
        "eth1",
        "-o",
        "mirror0",
        "--vlan",
        "7",
        "--create",
        "--pace",
        "2.5G",
    ];
    let same = <Cli as clap::Parser>::parse_from(same);
    assert_eq!(
        format!("{:?}", cli.serve.output),
        format!("{:?}", same.serve.output)
    );
}

#[test]
fn the_command_line_wins() {
    let text = "write = 'a'\ninterface = ['eth0', 'eth1']\noutput = 'mirror0'\nvlan = 7";
    let cli = good(text, &["-w", "b", "--interface=lo", "--vlan", "8"]);
    assert_eq!(
        cli.serve.output.capture.write.as_deref(),
        Some(Path::new("b"))
    );
    assert_eq!(cli.serve.mirror.interfaces, ["lo"]);
    let shown = format!("{:?}", cli.serve.output);
    assert!(shown.contains("VlanId(8)"), "{shown}");
    // What the command line lacks alone the file may have.
    assert!(
        good("output = 'x'", &["--pace", "1M"])
            .serve
            .output
            .view
            .pace
            .is_some()
    );
}

#[test]
fn every_fault_is_told_with_its_line_and_key() {
    let text = "
vlan = 5000
outptu = 'x'
write = 7
ring_size = '1M'
create = 'yes'
interface = [true]
check = true
pace = ['1M']
socket = 1979-05-27
[a]
tunnel = 'a b'
[b]
write = 'x'
[c.d]
vlan = 1
";
    let faults = faults(text, &[]);
    let starts = |start: &str| faults.iter().any(|fault| fault.starts_with(start));
    for start in [
        "2: vlan: ",
        "3: outptu: there is no such option; output?",
        "5: ring_size: there is no such option; ring-size?",
        "6: create: it is true or false, and not a text",
        "7: interface: it takes a text or a number, not true or false",
        "8: check: that belongs on the command line",
        "9: pace: it takes one value, not a list",
        "10: socket: it takes a text or a number, not a date",
        "12: tunnel: 'a b' is no address",
        "14: write: it is in line 4 already",
    ] {
        assert!(starts(start), "{start}\n{faults:#?}");
    }
    assert_eq!(faults.len(), 11, "{faults:#?}");
}

#[test]
fn faults_of_toml_have_lines_too() {
    let faults = faults("write = 'x'\nvlan = \n[a\n", &[]);
    assert!(faults[0].starts_with("2: "), "{faults:?}");
    assert!(faults.len() > 1, "{faults:?}");
}

#[test]
fn contradictions_name_their_places() {
    let Err(Misuse::File(lines)) = read_with("\nvlan = 7", &[]) else {
        panic!("taken")
    };
    assert!(lines[0].contains("--output"), "{lines:?}");
    assert!(lines[0].contains("x.toml:2"), "{lines:?}");
    let text = "write = 'x'\n\ntunnel = 'sensor'\n";
    let Err(Misuse::File(lines)) = read_with(text, &["-C"]) else {
        panic!("taken")
    };
    assert!(lines[0].contains("x.toml:3"), "{lines:?}");
    let Ok(invocation) = read_with("write = '-'\nkeep = 3", &[]) else {
        panic!("refused")
    };
    let error = crate::config::resolve(invocation.cli)
        .unwrap_err()
        .to_string();
    let located = invocation.origin.locate("--keep has nothing to keep");
    assert!(located.contains("x.toml:2"), "{located} {error}");
}

#[test]
fn a_missing_file_is_missed_where_it_was_named() {
    let words = ["sslcollector", "--config", "/nonexistent/x", "-w", "y"];
    let misuse = read(words.map(OsString::from).to_vec());
    assert!(matches!(misuse, Err(Misuse::File(_))), "{misuse:?}");
    let words = ["sslcollector", "--no-config", "-w", "y"];
    assert!(read(words.map(OsString::from).to_vec()).is_ok());
}

#[test]
fn commands_read_no_file() {
    let words = ["sslcollector", "run", "-w", "x", "true"];
    let invocation = read(words.map(OsString::from).to_vec()).unwrap();
    assert!(invocation.cli.command.is_some() && invocation.origin.keys.is_empty());
}

#[test]
fn check_tells_what_counts() {
    let invocation = read_with(
        "write = 'a \"b\"'\nrotate-size = '1G'",
        &["--check", "-I", "lo"],
    );
    let told = invocation.unwrap().check.unwrap();
    assert!(told.contains("write = 'a \"b\"'  # "), "{told}");
    assert!(told.contains("x.toml:1\n"), "{told}");
    assert!(
        told.contains("interface = \"lo\"  # command line\n"),
        "{told}"
    );
    assert!(
        told.contains("#unknown-flow = \"exclude\"  # default\n"),
        "{told}"
    );
    // It is a file itself.
    good(&told, &[]);
}

#[test]
fn the_example_is_good_in_every_line() {
    let invocation = read_with(EXAMPLE, &["--check"]).unwrap();
    crate::config::resolve(invocation.cli).unwrap();
    let mut seen = 0;
    for line in EXAMPLE.lines() {
        let Some(setting) = line.strip_prefix("#") else {
            continue;
        };
        // Prose has a space behind the mark.
        if setting.starts_with(' ') || !setting.contains(" = ") {
            continue;
        }
        seen += 1;
        assert!(parse(setting).is_ok(), "{setting}: {:?}", parse(setting));
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn what_becomes_of_older_sessions() {
    let text = "write = 'x'\nmidstream = 'skip'\n";
    let choice = |words: &[&str]| good(text, words).serve.midstream.midstream;
    assert_eq!(choice(&[]), Midstream::Skip);
    assert_eq!(choice(&["--midstream", "forge"]), Midstream::Forge);
    let checked = read_with(text, &["--check"]).unwrap().check.unwrap();
    assert!(checked.contains("midstream = "), "{checked}");
    let said = faults("midstream = 'x'\n", &["-w", "x"]).concat();
    assert!(said.contains("neither forge nor skip"), "{said}");
}

#[test]
fn what_the_file_says_can_be_undone() {
    let text = "output = 'mirror0'\nvlan = 7\ncreate = true\nforce = true\n";
    let undone = good(text, &["--no-create", "--no-vlan"]);
    let interface = &undone.serve.output.interface;
    assert!(!interface.create && interface.force);
    let shown = format!("{:?}", undone.serve.output);
    assert!(shown.contains("vlan: None"), "{shown}");
    // A later one counts, whichever it is.
    let both = good(text, &["--no-create", "--create"]);
    assert!(both.serve.output.interface.create);
    let both = good(text, &["--create", "--no-create"]);
    assert!(!both.serve.output.interface.create);
    // Of `-t`'s, too, one of which takes a value or none.
    let text = "tunnel = 'sensor'\ncompress = 3\nspread = true\ninsecure-plaintext = true\n";
    let words = ["--no-compress", "--no-spread", "--no-insecure-plaintext"];
    let tunnel = good(text, &words).serve.tunnel;
    assert!(tunnel.compress.is_none() && !tunnel.spread && !tunnel.insecure_plaintext);
    let checked = read_with(text, &["--check", "--no-spread"]).unwrap();
    let told = checked.check.unwrap();
    assert!(
        told.contains("compress = ") && !told.contains("spread"),
        "{told}"
    );
    // What is done once and on command has no other side.
    assert!(read_with("", &["-w", "x", "--no-check"]).is_err());
}

#[test]
fn commands_about_identities_find_the_state() {
    let file = file("tunnel = 'sensor'\nstate = '/srv/keys'\n");
    let state = |line: &str| {
        let mut words: Vec<OsString> = vec!["sslcollector".into()];
        let path = file.path.display().to_string();
        words.extend(
            line.split(' ')
                .map(|word| word.replace("FILE", &path).into()),
        );
        let cli = read(words)
            .unwrap_or_else(|misuse| panic!("{line}: {misuse:?}"))
            .cli;
        match cli.command {
            Some(Command::Enroll(args)) => args.state.state,
            Some(Command::Join(args)) => args.state.state,
            Some(Command::Agents(args)) => args.state.state,
            None => cli.serve.tunnel.state,
            other => panic!("{other:?}"),
        }
    };
    for line in [
        "enroll --config FILE",
        "join --config FILE token",
        "join --config FILE -- token",
        "agents --config FILE",
        "agents revoke web1 --config FILE",
        "-C --init --config FILE",
    ] {
        assert_eq!(state(line), Path::new("/srv/keys"), "{line}");
    }
    for line in [
        "enroll --config FILE --state /mine",
        "agents --state /mine revoke web1 --config FILE",
        "agents revoke web1 --config FILE --state /mine",
        "join --state /mine --no-config token",
    ] {
        assert_eq!(state(line), Path::new("/mine"), "{line}");
    }
}
