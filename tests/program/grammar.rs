//! One grammar for the command line: what stands in `docs/commands.md` is what clap knows, the same
//! letter means the same everywhere, and help fits a screen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use assert_cmd::Command;
use clap::CommandFactory;
use modelve::cli::Cli;

fn commands() -> Vec<clap::Command> {
    let mut cli = Cli::command();
    cli.build();
    let shown = |command: &&clap::Command| command.get_name() != "help" && !command.is_hide_set();
    let mut commands = Vec::new();
    for command in cli.get_subcommands().filter(shown) {
        let name = command.get_name();
        // A command that has commands of its own does nothing else.
        let own: Vec<clap::Command> = (command.get_subcommands().filter(shown))
            .map(|own| own.clone().name(format!("{name} {}", own.get_name())))
            .collect();
        match own.is_empty() {
            true => commands.push(command.clone()),
            false => commands.extend(own),
        }
    }
    commands
}

/// The flags of a command: long name, the letter, and other spellings.
fn flags(command: &clap::Command) -> impl Iterator<Item = &clap::Arg> {
    command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some() && !arg.is_global_set())
        .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
}

/// What a command takes without a flag: `PROMPT…`.
fn subject(command: &clap::Command) -> String {
    let names = command.get_positionals().map(|arg| {
        let name = arg.get_value_names().and_then(<[_]>::first);
        let name = name.map_or_else(|| arg.get_id().to_string(), ToString::to_string);
        let several = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
        format!("{name}{}", if several { "…" } else { "" })
    });
    names.collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn table() -> String {
    let commands = commands();
    // Flags that many commands share come first.
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for command in &commands {
        for flag in flags(command) {
            *count
                .entry(flag.get_long().unwrap().to_owned())
                .or_default() += 1;
        }
    }
    let mut order: Vec<(&String, &usize)> = count.iter().collect();
    order.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), (*name).clone()));
    let mut text = String::from("| |");
    for command in &commands {
        write!(text, " {} |", command.get_name()).unwrap();
    }
    text += "\n|---|";
    text += &"---|".repeat(commands.len());
    text += "\n| without a flag |";
    for command in &commands {
        write!(text, " {} |", subject(command)).unwrap();
    }
    for (name, _) in order {
        write!(text, "\n| `--{name}` |").unwrap();
        for command in &commands {
            let flag = flags(command).find(|flag| flag.get_long() == Some(name));
            let cell = flag.map_or(String::new(), |flag| match flag.get_short() {
                Some(letter) => format!("`-{letter}`"),
                None => "×".to_owned(),
            });
            write!(text, " {cell} |").unwrap();
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_table_of_commands_and_flags_is_what_the_program_takes() {
    let table = table();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let written = Path::new(env!("CARGO_TARGET_TMPDIR")).join("commands.md");
    std::fs::write(&written, &table).unwrap();
    assert!(
        docs.contains(&table),
        "docs/commands.md shows another table than {}",
        written.display()
    );
}

#[test]
fn the_same_letter_means_the_same_everywhere() {
    let mut meanings: BTreeMap<char, BTreeSet<String>> = BTreeMap::new();
    for command in &commands() {
        for flag in flags(command) {
            if let Some(letter) = flag.get_short() {
                let long = flag.get_long().unwrap().to_owned();
                meanings.entry(letter).or_default().insert(long);
            }
        }
    }
    for (letter, longs) in &meanings {
        // How many tokens: to add, to show, to read, to list.
        let expected = if *letter == 'n' { 4 } else { 1 };
        assert_eq!(longs.len(), expected, "-{letter} is {longs:?}");
    }
    for (letter, long) in [
        ('m', "model"),
        ('f', "file"),
        ('o', "output"),
        ('t', "threads"),
    ] {
        assert!(meanings[&letter].contains(long), "-{letter}");
    }
}

#[test]
fn commands_of_one_kind_take_the_same() {
    let long = |command: &clap::Command, name: &str| {
        flags(command).any(|flag| {
            let aliases = flag.get_all_aliases().unwrap_or_default();
            flag.get_long() == Some(name) || aliases.contains(&name)
        })
    };
    for command in &commands() {
        let name = command.get_name();
        let of_prompts = [
            "complete",
            "next",
            "lens",
            "attention",
            "why",
            "patch",
            "ablate",
            "heads",
            "steer run",
            "dump",
        ];
        if of_prompts.contains(&name) {
            for flag in [
                "model",
                "file",
                "lines",
                "chat",
                "system",
                "special",
                "no-special",
                "json",
            ] {
                assert!(long(command, flag), "{name} --{flag}");
            }
        }
        if [
            "lens",
            "attention",
            "patch",
            "steer learn",
            "steer run",
            "dump",
        ]
        .contains(&name)
        {
            assert!(long(command, "layer") && long(command, "layers"), "{name}");
        }
        if long(command, "html") {
            assert!(long(command, "json") && long(command, "force"), "{name}");
        }
        if ["convert", "meta", "compare"].contains(&name) {
            assert!(long(command, "model"), "{name}");
        }
    }
}

fn shown(arguments: &[&str]) -> String {
    let mut command = Command::cargo_bin("modelve").unwrap();
    let out = command.args(arguments).assert().success();
    String::from_utf8(out.get_output().stdout.clone()).unwrap()
}

#[test]
fn short_help_fits_a_screen_and_long_help_has_all() {
    let all = shown(&["-h"]);
    assert!(all.lines().count() <= 35, "{all}");
    assert!(all.contains("man "), "{all}");
    let commands = [
        "complete",
        "next",
        "score",
        "lens",
        "attention",
        "why",
        "patch",
        "ablate",
        "heads",
        "steer learn",
        "steer run",
        "dump",
        "compare",
    ];
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        let short = shown(&[&words[..], &["-h"]].concat());
        assert!(
            short.lines().count() <= 52,
            "{command}: {} lines\n{short}",
            short.lines().count()
        );
        assert!(!short.contains("--kv-type"), "{short}");
        let long = shown(&[&words[..], &["--help"]].concat());
        let (_, engine) = long.split_once("\nEngine:\n").unwrap();
        assert!(
            engine.contains("--kv-type") && engine.contains("--threads"),
            "{long}"
        );
    }
}

#[test]
fn asked_nothing_it_greets_with_commands_that_work() {
    let home = tempfile::tempdir().unwrap();
    let greeting = shown(&[]);
    let commands: Vec<&str> = greeting
        .lines()
        .filter_map(|line| line.strip_prefix("  modelve "))
        .collect();
    assert_eq!(commands.len(), 3, "{greeting}");
    for line in commands {
        // What the command is for stands apart.
        let line = line.split("   ").next().unwrap();
        super::hints::shell(home.path(), &format!("modelve {line}"));
    }
}
