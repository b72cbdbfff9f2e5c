//! A program on a terminal, which here is a pseudo terminal of Python's.

use std::process::Command;

/// argv: columns, a text to wait for or nothing, the program and its arguments. Sizes the
/// terminal before the program starts, presses Ctrl-C once when the text is on the screen,
/// prints what came to the screen and exits as the program did (128 and more: by a signal).
const SCRIPT: &str = "\
import fcntl, os, pty, struct, sys, termios
columns, awaited = int(sys.argv[1]), sys.argv[2].encode()
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 40, columns, 0, 0))
    os.execvp(sys.argv[3], sys.argv[3:])
shown = b''
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    shown += data
    if awaited and awaited in shown:
        os.write(terminal, b'\\x03')
        awaited = b''
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.buffer.write(shown)
sys.exit(code if code >= 0 else 128 - code)
";

/// What a command left on a terminal of so many columns, and its exit code. `None`: there is no
/// Python to make a terminal with.
pub fn run(command: &Command, columns: u16, ctrl_c_at: &str) -> Option<(String, i32)> {
    let mut terminal = Command::new("python3");
    terminal.args(["-c", SCRIPT, &columns.to_string(), ctrl_c_at]);
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
    Some((shown, output.status.code()?))
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
