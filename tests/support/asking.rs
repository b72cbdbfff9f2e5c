//! The program asked on the command line: what it prints, as text or as JSON, and how it refuses.

use assert_cmd::Command;
use serde_json::Value;

/// What a command that succeeds prints.
pub fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The objects that it prints, one in each line.
pub fn objects(command: &mut Command) -> Vec<Value> {
    let text = said(command);
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// What a command that fails says on standard error, and its exit code.
pub fn refusal(command: &mut Command) -> (String, i32) {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?}");
    assert!(output.stdout.is_empty(), "{command:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    (said, output.status.code().unwrap())
}

/// The keys of an object, in their order.
pub fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

pub fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

pub fn numbers(value: &Value) -> Vec<f64> {
    array(value).iter().map(number).collect()
}
