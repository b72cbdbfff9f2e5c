//! A program on a terminal, which here is a pseudo terminal of Python's.

use std::process::Command;

/// argv: columns, a list of texts to wait for and keys to press then, the program and its
/// arguments. A text that begins with `regex:` is a regular expression. Sizes the terminal before the program starts, waits for each text in what came
/// since the one before, prints what came to the screen and exits as the program did (128 and
/// more: by a signal). After two minutes it gives up.
const SCRIPT: &str = "\
import fcntl, json, os, pty, re, signal, struct, sys, termios
columns, steps = int(sys.argv[1]), json.loads(sys.argv[2])
signal.alarm(120)
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 40, columns, 0, 0))
    os.execvp(sys.argv[3], sys.argv[3:])
shown, seen = b'', 0
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    shown += data
    while steps:
        text, keys = steps[0]
        text = text[6:] if text.startswith('regex:') else re.escape(text)
        at = re.compile(text.encode()).search(shown, seen)
        if not at:
            break
        steps.pop(0)
        seen = at.end()
        os.write(terminal, keys.encode())
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.buffer.write(shown)
sys.exit(code if code >= 0 else 128 - code)
";

/// What a command left on a terminal of so many columns, and its exit code. Ctrl-C is pressed
/// once when a text appears, if one is given. `None`: there is no Python to make a terminal with.
pub fn run(command: &Command, columns: u16, ctrl_c_at: &str) -> Option<(String, i32)> {
    let keys = [(ctrl_c_at, "\x03")];
    converse(command, columns, &keys[usize::from(ctrl_c_at.is_empty())..])
}

/// The same, with a list of texts to wait for, one after another, and keys to press then.
pub fn converse(command: &Command, columns: u16, steps: &[(&str, &str)]) -> Option<(String, i32)> {
    let mut terminal = Command::new("python3");
    let steps = serde_json::to_string(steps).unwrap();
    terminal.args(["-c", SCRIPT, &columns.to_string(), &steps]);
    terminal.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => terminal.env(key, value),
            None => terminal.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        terminal.current_dir(folder);
    }
    let output = terminal.output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty(), "{said}");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code();
    let code = code.unwrap_or_else(|| panic!("it did not end in two minutes: {shown}"));
    Some((shown, code))
}

/// The lines of a screen without colours and spaces at their ends.
#[allow(dead_code)]
pub fn lines(shown: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = shown;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        text.push_str(before);
        rest = after
            .split_once(|c: char| c.is_ascii_alphabetic())
            .map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}
