//! How threads wait for each other on a machine with other work.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Keeps every core busy until dropped.
struct Load<'a>(&'a AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a running process was started with.
fn environment(child: &Child) -> String {
    let bytes = std::fs::read(format!("/proc/{}/environ", child.id())).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn where_others_compute_threads_sleep_while_they_wait() {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _load = Load(&done);
        let cores = std::thread::available_parallelism().unwrap().get();
        for _ in 0..cores {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let begin = |decided: Option<&str>| {
            let mut command = modelve(&files().large);
            command.args(["the", "-n", "100000", "--ignore-eos"]);
            command
                .env_remove("OMP_WAIT_POLICY")
                .env_remove("GOMP_SPINCOUNT");
            if let Some(decided) = decided {
                command.env("GOMP_SPINCOUNT", decided);
            }
            command.stdout(Stdio::piped()).spawn().unwrap()
        };
        let first_text = |child: &mut Child| {
            let out = child.stdout.as_mut().unwrap();
            out.read_exact(&mut [0; 4]).unwrap();
        };
        let mut child = begin(None);
        first_text(&mut child);
        let environment_then = environment(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            environment_then.contains("OMP_WAIT_POLICY=passive"),
            "{environment_then}"
        );

        // Unless somebody has decided how they wait.
        let mut child = begin(Some("1000"));
        first_text(&mut child);
        let environment_then = environment(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            !environment_then.contains("OMP_WAIT_POLICY"),
            "{environment_then}"
        );
    });
}
